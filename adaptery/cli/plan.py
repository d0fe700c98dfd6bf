"""`adapters plan`: what a run will be, told before any weight is loaded."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from adaptery.cli.context import human_size, json_option, print_json, print_table, stderr
from adaptery.cli.run_options import run_config, run_options, run_parts
from adaptery.errors import DoesNotFit

if TYPE_CHECKING:
    from adaptery.trainers.plan.making import RunPlan
    from adaptery.trainers.plan.measuring import Measured

PARTS = {
    "base": "base weights",
    "adapter": "trained weights, fp32",
    "gradients": "their gradients",
    "optimizer": "optimizer states",
    "activations": "activations of the largest micro-batch",
    "logits": "logits of learned positions",
    "allocator": "allocator and libraries",
    "training": "= training",
    "evaluation": "evaluation, beside the weights",
    "probe": "the plain base for the probe",
    "peak": "= peak",
}


@click.command("plan")
@run_options
@click.option(
    "--measure", is_flag=True, help="Load the base and take a few steps: time and true memory."
)
@json_option
def plan_command(
    file: Path | None,
    preset: str | None,
    assignments: tuple[str, ...],
    options: tuple[str, ...],
    measure: bool,
    as_json: bool,
    **flags: str | None,
) -> None:
    """Tell a run's rows, steps, parameters and memory before any weight is loaded.

    FILE and flags are those of `adapters train`. Ends with exit code 4 where the memory of this
    machine does not do.
    """
    from adaptery.base_model import open_base, outline_base
    from adaptery.cli.progress import Bars
    from adaptery.trainers.plan.making import make_plan
    from adaptery.trainers.work import Work

    config = run_config(file, preset, assignments, options, None, flags)
    settings, parts = config.value, run_parts(config.value)
    find = open_base if measure else outline_base
    with Bars(stderr()) as bars:
        work = Work.gather(settings, parts, bars, find(settings.base, settings.revision))
        plan = make_plan(config, work)
        measured = measured_run(work) if measure and plan.fits else None
    if as_json:
        print_json(plan.told() | ({"measured": told(plan, measured)} if measured else {}))
    else:
        show(plan, measured)
    if not plan.fits:
        raise DoesNotFit(
            f"The run would take {human_size(plan.memory.peak)}, and {plan.room.device} has "
            f"{human_size(plan.room.available)} left. {plan.remedy}"
        )


def measured_run(work: Any) -> "Measured":
    from adaptery.trainers.plan.measuring import measure

    work.watcher.phase("taking a few steps", 1)
    return measure(work)


def told(plan: "RunPlan", measured: "Measured") -> dict[str, float]:
    """What was measured, beside what was planned, as data."""
    return {
        "peak": measured.peak,
        "planned": plan.memory.training,
        "error": round(measured.error(plan.memory.training), 4),
        "seconds_per_micro_batch": measured.seconds_per_micro_batch,
        "seconds": measured.seconds,
    }


def show(plan: "RunPlan", measured: "Measured | None") -> None:
    """The plan for people: data, steps, adapter, memory, and where the values come from."""
    data, steps, adapter = plan.data, plan.steps, plan.adapter
    print_table(
        ("plan", ""),
        [
            (
                "rows",
                f"{data['rows']:,} of the format {data['format']}, "
                f"{data['held_out_rows']:,} held out",
            ),
            (
                "tokens",
                f"{data['tokens']:,}, {data['learned_tokens']:,} of them learned; "
                f"the longest row has {data['longest']:,}",
            ),
            (
                "steps",
                f"{steps['steps']:,} of {steps['effective_batch']} rows, "
                f"{steps['steps_in_epoch']:,} in an epoch, {steps['warmup_steps']:,} of warm-up",
            ),
            ("arithmetic", f"{steps['precision']}, learning rate {steps['learning_rate']:g}"),
            ("method", f"{adapter['method']} on {', '.join(adapter['targets'])}"),
            (
                "trainable",
                f"{adapter['trainable']:,} parameters, {adapter['share']:.3%} of "
                f"{adapter['base_parameters']:,}",
            ),
            ("on disk", human_size(adapter["disk"])),
        ],
    )
    memory = plan.memory.told()
    print_table(
        ("memory", "bytes "), [(text, human_size(memory[part])) for part, text in PARTS.items()]
    )
    print_table(
        ("option", "value", "from"),
        [(key, value, origin) for key, value, origin in plan.values],
    )
    told_room = f"{plan.room.device} has {human_size(plan.room.available)} left."
    stderr().print(told_room)
    if measured:
        stderr().print(
            f"Measured: peak {human_size(measured.peak)} in training, planned "
            f"{human_size(plan.memory.training)} ({measured.error(plan.memory.training):+.0%}); "
            f"{measured.seconds_per_micro_batch:.2f} s for a micro-batch, about "
            f"{duration(measured.seconds)} for all steps."
        )


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(75), duration(7500)
    ('1 min 15 s', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
