"""Optimizers and schedules of the learning rate, by the names that transformers gives them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from adaptery.errors import ConfigError, suggest
from adaptery.trainers.config import TrainingConfig

if TYPE_CHECKING:
    import torch

Group = Mapping[str, Any]
"""Parameters that share settings, as `torch.optim` takes them: `params`, `lr`, `weight_decay`."""

TRIAL = 8192  # numbers in a tensor that 8-bit optimizers already hold in 8 bits
# What schedules need beside warm-up and length. By default, restarts are none and the polynomial is
# a straight line.
MIN_RATE = 0.1  # of the peak rate, where the cosines end that do not end at 0
DECAY = 0.1  # share of the steps in which warmup_stable_decay falls
CYCLES = 2  # of cosine_with_restarts
POWER = 2.0  # of polynomial


def check_training(training: TrainingConfig) -> None:
    """Find what is wrong with optimizer, schedule and precision before any row is read.

    Raises:
        ConfigError: there is none of that name, or it cannot be used here; the way out is named.
    """
    import torch

    if training.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError(
            "training.precision is fp16, which needs a GPU: on a CPU it is slow and its gradients "
            "vanish. Use bf16, fp32 or auto."
        )
    weight = torch.nn.Parameter(torch.ones(TRIAL, device=device()))
    try:
        optimizer = make_optimizer([{"params": [weight]}], training, 1e-3)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The optimizer {training.optimizer!r} does not work on this machine: {error}. "
            "adamw_torch works everywhere."
        ) from error
    make_schedule(optimizer, training, 10)


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def decay_groups(
    parameters: "Iterable[torch.nn.Parameter]", training: TrainingConfig
) -> list[Group]:
    """The trainable ones in two groups: biases, norms and other vectors are not decayed."""
    trained = [p for p in parameters if p.requires_grad]
    groups = (
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]


def make_optimizer(
    groups: Sequence[Group], training: TrainingConfig, rate: float
) -> "torch.optim.Optimizer":
    """The optimizer that `training.optimizer` names, over these groups.

    Args:
        rate: the peak learning rate of groups that give none of their own.

    Raises:
        ConfigError: there is none of that name, or its package is missing.
    """
    kind, arguments = optimizer_kind(training.optimizer, rate)
    optimizer: torch.optim.Optimizer = kind([dict(group) for group in groups], **arguments)
    return optimizer


def optimizer_kind(name: str, rate: float) -> tuple[Any, dict[str, Any]]:
    """Class and arguments of an optimizer, from transformers' own table.

    Raises:
        ConfigError: there is none of that name, or it cannot be used for an adapter.
    """
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import OptimizerNames

    known = [member.value for member in OptimizerNames]
    if name not in known:
        raise ConfigError(f"There is no optimizer {name!r}. {suggest(name, known)}")
    if name.startswith("schedule_free"):
        raise ConfigError(
            f"The optimizer {name!r} makes its own schedule, and what it trains is not what it "
            "measures. Use another, such as adamw_torch."
        )
    # The defaults of `TrainingArguments`; an instance of it would set up devices of its own.
    given = {f.name: None if f.default is MISSING else f.default for f in fields(TrainingArguments)}
    arguments = SimpleNamespace(**given | {"optim": name, "learning_rate": rate})
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except (ImportError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"The optimizer {name!r} cannot be used here: {str(error).rstrip('.')}. adamw_torch "
            "works everywhere."
        ) from error
    return kind, settings


def make_schedule(
    optimizer: "torch.optim.Optimizer", training: TrainingConfig, total: int
) -> "torch.optim.lr_scheduler.LRScheduler":
    """The schedule that `training.scheduler` names, over `total` steps.

    Raises:
        ConfigError: there is none of that name, or it needs what a step does not know.
    """
    from transformers import SchedulerType, get_scheduler

    name, warm = training.scheduler, round(training.warmup * total)
    known = [member.value for member in SchedulerType]
    if name not in known:
        raise ConfigError(f"There is no scheduler {name!r}. {suggest(name, known)}")
    if name in ("reduce_lr_on_plateau", "greedy"):
        raise ConfigError(
            f"The scheduler {name!r} changes the rate by what was measured, so the rate would "
            "depend on how often that is. Use another, such as cosine, and evaluation.patience."
        )
    if name == "constant" and warm:  # transformers' own would leave the warm-up out
        name = "constant_with_warmup"
    needs: dict[str, dict[str, Any]] = {
        "cosine_with_restarts": {"num_cycles": CYCLES},
        "polynomial": {"power": POWER},
        "cosine_with_min_lr": {"min_lr_rate": MIN_RATE},
        "cosine_warmup_with_min_lr": {"min_lr_rate": MIN_RATE},
        "warmup_stable_decay": {"num_decay_steps": max(1, round(DECAY * total))},
    }
    try:
        schedule: torch.optim.lr_scheduler.LRScheduler = get_scheduler(
            name, optimizer, warm, total, scheduler_specific_kwargs=needs.get(name)
        )
    except ValueError as error:
        raise ConfigError(f"The scheduler {name!r} cannot be used here: {error}") from error
    return schedule
