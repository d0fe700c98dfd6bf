"""TensorBoard, W&B and MLflow, by their own small interfaces.

Figures have the names that transformers' callbacks give them, and the environment variables that
those obey hold here. The callbacks are not driven: MLflow's logs in the background and never
looks whether that failed, W&B's leaves its run open and cannot go on with a resumed one, their
module prints to stdout, and they report a hundred values of `TrainingArguments` that nothing reads.
"""

import importlib.util
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adaptery.errors import ConfigError, brief

if TYPE_CHECKING:
    from adaptery.trainers.config import RunConfig
    from adaptery.trainers.run_directory import RunDirectory
    from adaptery.trainers.watching.watcher import Watcher

LONGEST_PARAMETER = 500  # characters that MLflow keeps of a value
PROJECT = "adaptery"  # where neither WANDB_PROJECT nor MLFLOW_EXPERIMENT_NAME says otherwise


def check_reporters(names: Sequence[str]) -> None:
    """Know before any weight is loaded that what is asked for can be done.

    Raises:
        ConfigError: a reporter's package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"report_to names {name!r}, but its package is not installed: pip install {name}"
            )


class Reporter(Protocol):
    """A place that keeps figures over steps."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self, *, failed: bool) -> None: ...


class TensorBoard:
    """Event files in the run directory, or where TENSORBOARD_LOGGING_DIR says."""

    def __init__(self, settings: "RunConfig", run: "RunDirectory") -> None:
        chosen = os.environ.get("TENSORBOARD_LOGGING_DIR")
        self.folder = Path(chosen).expanduser() if chosen else run.path / "tensorboard"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = f"```\n{settings.model_dump_json(indent=2)}\n```"
        self.writer: Any = None

    def begin(self, step: int) -> None:
        """Write from this step on; what an interrupted run wrote of it and later is dropped."""
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(self.folder), purge_step=step)
        self.writer.add_text("config", self.config, step)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.writer is None:
            self.begin(step)
        for name, value in figures.items():
            self.writer.add_scalar(renamed(name), value, step)
        self.writer.flush()

    def close(self, *, failed: bool) -> None:
        if self.writer is not None:
            self.writer.close()


class WeightsAndBiases:
    """A W&B run, which a resumed run goes on with. Its own variables, such as WANDB_MODE, hold."""

    def __init__(self, settings: "RunConfig", run: "RunDirectory") -> None:
        import wandb

        known = remembered(run.path, "wandb", lambda: secrets.token_hex(4))
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=run.path.name,
            id=known,
            resume="allow",
            dir=os.environ.get("WANDB_DIR") or run.path,
            config=settings.model_dump(mode="json"),
            settings=wandb.Settings(console="off", quiet=True),  # stderr is the progress bar's
        )
        self.run.define_metric("train/global_step")
        self.run.define_metric("*", step_metric="train/global_step")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        named = {renamed(name): value for name, value in figures.items()}
        self.run.log({**named, "train/global_step": step})

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow:
    """An MLflow run where MLFLOW_TRACKING_URI says, which a resumed run goes on with."""

    def __init__(self, settings: "RunConfig", run: "RunDirectory") -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        # Its own seven tries, each after twice the pause, would hold up a run for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.client: Any = MlflowClient()
        self.run = remembered(run.path, "mlflow", lambda: self.begin(run.path.name))
        config = flat(settings.model_dump(mode="json"))
        params = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in config.items()]
        self.client.log_batch(self.run, params=params, synchronous=True)
        self.client.update_run(self.run, status="RUNNING")

    def begin(self, name: str) -> str:
        """A new run in the experiment that MLFLOW_EXPERIMENT_NAME names."""
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
        experiment = self.client.get_experiment_by_name(wanted)
        number = experiment.experiment_id if experiment else self.client.create_experiment(wanted)
        return str(self.client.create_run(number, run_name=name).info.run_id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(renamed(name), value, now, step) for name, value in figures.items()]
        self.client.log_batch(self.run, metrics=metrics, synchronous=True)

    def close(self, *, failed: bool) -> None:
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


REPORTERS: dict[str, Callable[["RunConfig", "RunDirectory"], Reporter]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def remembered(run: Path, name: str, make: Callable[[], str]) -> str:
    """The id under which a service knows this run; made once and kept in the run directory."""
    path = run / f"{name}.id"
    if not path.exists():
        path.write_text(make(), encoding="utf-8")
    return path.read_text(encoding="utf-8")


def renamed(name: str) -> str:
    """A figure as transformers' callbacks name it.

    >>> renamed("loss"), renamed("eval.loss")
    ('train/loss', 'eval/loss')
    """
    return f"eval/{name[5:]}" if name.startswith("eval.") else f"train/{name}"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


class Guarded:
    """A reporter that may fail: it is left out from then on, and the run goes on."""

    def __init__(self, name: str, reporter: Reporter, watcher: "Watcher") -> None:
        self.name, self.watcher = name, watcher
        self.reporter: Reporter | None = reporter

    def row(self, figures: Mapping[str, float]) -> None:
        step = int(figures["step"])
        named = {name: value for name, value in figures.items() if name != "step"}
        self.attempt(lambda reporter: reporter.log(step, named))

    def event(self, kind: str, step: int, sentence: str) -> None: ...

    def sample(self, step: int, prompt: str, answer: str, ended: bool = True) -> None: ...

    def end(self) -> None:
        failed = sys.exc_info()[0] is not None  # the error that ends the run is on its way up
        self.attempt(lambda reporter: reporter.close(failed=failed))

    def attempt(self, work: Callable[[Reporter], None]) -> None:
        if self.reporter is None:
            return
        try:
            work(self.reporter)
        except Exception as error:  # noqa: BLE001 - whatever a service's client raises
            self.reporter = None
            self.watcher.say(
                f"warning: {self.name} failed and hears no more of this run, which goes on; "
                f"metrics.jsonl has every figure. It said: {told(error)}"
            )


def make_reporters(settings: "RunConfig", run: "RunDirectory", watcher: "Watcher") -> list[Guarded]:
    """Those that `report_to` names, begun.

    A new run whose reporter cannot begin is refused: nothing was trained yet. A resumed one is
    worth more than its reporter, and goes on without.

    Raises:
        ConfigError: a package is missing, or a service cannot be reached or logged in to.
    """
    check_reporters(settings.report_to)
    begun = []
    for name in dict.fromkeys(settings.report_to):
        try:
            begun.append(Guarded(name, REPORTERS[name](settings, run), watcher))
        except Exception as error:
            sentence = f"{name} cannot begin: {told(error)}"
            if not run.metrics():
                raise ConfigError(
                    f"{sentence} Nothing was trained. Mend that, or leave it out of report_to."
                ) from error
            watcher.say(f"warning: {sentence} The run goes on without it.")
    return begun


def told(error: Exception) -> str:
    """What a client raised, as a sentence of ours can repeat it."""
    text = brief(" ".join(str(error).split()) or type(error).__name__, quote=False)
    return text if text.endswith((".", "…")) else f"{text}."
