"""A search for the best configuration: Optuna proposes, a process of its own tries each proposal.

Trials live in Optuna's storage, so that a sweep goes on after whatever stopped it, and several
processes can work on one. A trial whose process is gone is tried again, from its checkpoint.
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.config import Resolved
from adaptery.errors import ConfigError, DataError, Interrupted
from adaptery.trainers.config import RunConfig
from adaptery.trainers.evaluation.scoring import LOSSES
from adaptery.trainers.experiments.outcome import Outcome
from adaptery.trainers.experiments.running import rows_of, run_in
from adaptery.trainers.experiments.space import Dimension
from adaptery.trainers.experiments.variations import changed
from adaptery.trainers.watching.status import HEARTBEAT, SILENCE, is_process
from adaptery.trainers.watching.watcher import Watcher

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Sweep:
    """What is searched, and how far. `trials` counts those of all processes and sittings."""

    base: Resolved[RunConfig]
    space: Sequence[Dimension]
    metric: str
    trials: int
    study: "Study"
    sampler: str
    seed: int
    output: Path

    def settings(self, params: Mapping[str, Any]) -> Resolved[RunConfig]:
        """The configuration of a trial."""
        return changed(self.base, params, "sweep")


@dataclass
class Pruning:
    """Looks at a trial while it runs: shows that it lives, and stops it where it falls behind."""

    trial: "Trial"
    folder: Path
    metric: str
    steps: set[int] = field(default_factory=set)
    pruned: bool = False
    beat: float = 0.0

    def look(self) -> bool:
        """Returns False for a trial that is worse than most were at this step."""
        if time.time() - self.beat > HEARTBEAT:
            self.beat = time.time()
            self.trial.set_user_attr("beat", self.beat)
            self.report()
            self.pruned = bool(self.steps) and self.trial.should_prune()
        return not self.pruned

    def report(self) -> None:
        """Tell Optuna of every new measurement on held-out rows."""
        for row in rows_of(self.folder):
            score = row.get(f"eval.{self.metric}")
            if score is not None and row["step"] not in self.steps:
                self.steps.add(row["step"])
                self.trial.report(score, row["step"])


def open_study(storage: str, name: str, metric: str) -> "Study":
    """The study of that name, made if it is new.

    Raises:
        ConfigError: Optuna is not installed, or the storage cannot be opened.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "A sweep needs Optuna, which is not installed: pip install 'adaptery[sweep]'."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions = optuna.study.StudyDirection
    direction = directions.MINIMIZE if metric in LOSSES else directions.MAXIMIZE
    try:
        return optuna.create_study(
            storage=storage,
            study_name=name,
            direction=direction,
            pruner=optuna.pruners.MedianPruner(),
            load_if_exists=True,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"The storage {storage} cannot be opened: {reason}") from error


def carry_on(sweep: Sweep, command: Sequence[str], watcher: Watcher) -> None:
    """Try until there are as many trials as wanted, whoever made them.

    Raises:
        DataError: the rows must not be trained on.
        Interrupted: by the user; the same call goes on.
    """
    while True:
        revive(sweep)
        if len(counted(sweep.study)) >= sweep.trials and not waiting(sweep.study):
            if not alive_elsewhere(sweep.study):
                return
            time.sleep(1.0)  # for what others have in hand, so that the report is of all
            continue
        trial = ask(sweep)
        if trial is not None:
            attempt(sweep, trial, command, watcher)


def ask(sweep: Sweep) -> "Trial | None":
    """The next trial with its values; None if another process was first to the last one.

    What is proposed depends on the seed and the trial's number, so that a sweep that was stopped
    proposes what it would have, and two processes do not propose the same.
    """
    from optuna import samplers
    from optuna.trial import TrialState

    study = sweep.study
    study.sampler = make_sampler(sweep, len(study.get_trials(deepcopy=False)))
    trial = study.ask()
    study.sampler = make_sampler(sweep, trial.number)
    for dimension in sweep.space:
        dimension.suggest(trial)
    study.sampler = samplers.RandomSampler()  # a grid's would stop a loop of Optuna's, not ours
    if sum(other.number <= trial.number for other in counted(study)) > sweep.trials:
        trial.set_user_attr("surplus", True)
        study.tell(trial, state=TrialState.FAIL)
        return None
    folder = trial.user_attrs.get("folder") or str(sweep.output / f"trial-{trial.number:04d}")
    for name, value in {"folder": folder, "process": os.getpid(), "host": hostname()}.items():
        trial.set_user_attr(name, value)
    return trial


def make_sampler(sweep: Sweep, number: int) -> Any:
    """Optuna's sampler for the trial of that number."""
    from optuna import samplers

    seed = (sweep.seed * 1_000_003 + number) % (1 << 31)
    if sweep.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    if sweep.sampler == "tpe":
        return samplers.TPESampler(seed=seed)
    points = {dimension.key: list(dimension.choices) for dimension in sweep.space}
    return samplers.GridSampler(points, seed=sweep.seed)  # numbers its points by the seed


def attempt(sweep: Sweep, trial: "Trial", command: Sequence[str], watcher: Watcher) -> None:
    """Run one trial and tell the study how it went."""
    folder = Path(trial.user_attrs["folder"])
    values = ", ".join(f"{key}={value}" for key, value in trial.params.items())
    watcher.say(f"trial {trial.number} of {sweep.trials}: {values}")
    pruning = Pruning(trial, folder, sweep.metric)
    try:
        outcome = run_in(folder, sweep.settings(trial.params), command, watcher, pruning.look)
    except ConfigError as error:  # values that are allowed alone, but not together
        outcome = Outcome(status="failed", sentence=str(error))
    except DataError as error:
        outcome = Outcome(status="failed", sentence=str(error))
        if not any(dimension.key.startswith("data.") for dimension in sweep.space):
            tell(sweep, trial, outcome)
            raise
    except KeyboardInterrupt:
        outcome = None
    pruning.report()  # what came after the last look
    if outcome is None and pruning.pruned:
        outcome = Outcome(status="pruned", sentence="It was behind most others, and stopped.")
        outcome.write(folder)
    if outcome is None:
        again(sweep.study, sweep.study.get_trials(deepcopy=False)[trial.number])
        raise Interrupted(
            f"Interrupted; {len(counted(sweep.study)) - 1} of {sweep.trials} trials are over, and "
            "the one in hand was kept. The same command goes on from there."
        )
    tell(sweep, trial, outcome)
    if outcome.sentence:
        watcher.say(f"  {outcome.status}: {outcome.sentence}")


def tell(sweep: Sweep, trial: "Trial", outcome: Outcome) -> None:
    """Tell the study. What diverged or does not fit counts as pruned, so that it is kept away from.

    Raises:
        ConfigError: the metric was not measured.
    """
    from optuna.trial import TrialState

    trial.set_user_attr("status", outcome.status)
    if outcome.measured:
        metrics = outcome.measured.metrics
        if sweep.metric not in metrics:
            sweep.study.tell(trial, state=TrialState.FAIL)
            raise ConfigError(
                f"{sweep.metric!r} was not measured, but {', '.join(metrics)}: name one of them "
                "with --metric, or add it to evaluation.metrics."
            )
        sweep.study.tell(trial, metrics[sweep.metric])
    elif outcome.status == "failed":
        sweep.study.tell(trial, state=TrialState.FAIL)
    else:
        sweep.study.tell(trial, state=TrialState.PRUNED)


def revive(sweep: Sweep) -> None:
    """Put trials whose process is gone back into the queue."""
    from optuna.trial import TrialState

    for trial in sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if gone(trial):
            again(sweep.study, trial)


def gone(trial: "FrozenTrial") -> bool:
    """Whether nobody works on a running trial any more."""
    said = trial.user_attrs
    started = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    if time.time() - said.get("beat", started) > SILENCE:
        return True
    mine = said.get("host") == hostname()
    return mine and not is_process(said["process"])


def again(study: "Study", trial: "FrozenTrial") -> None:
    """Give a trial up and queue its values, once, however many processes want to."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return  # another process did
    attributes = {"again": trial.number}
    if "folder" in trial.user_attrs:
        attributes["folder"] = trial.user_attrs["folder"]
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs=attributes)


def counted(study: "Study") -> "list[FrozenTrial]":
    """The trials that count: all but those that were tried again, and those one too many."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("again") for trial in trials}
    return [
        trial
        for trial in trials
        if trial.number not in retried
        and not trial.user_attrs.get("surplus")
        and (trial.params or not trial.state.is_finished())
    ]


def waiting(study: "Study") -> bool:
    """Whether a trial that was left is in the queue."""
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def alive_elsewhere(study: "Study") -> bool:
    """Whether another process has a trial in hand."""
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def hostname() -> str:
    return socket.gethostname()
