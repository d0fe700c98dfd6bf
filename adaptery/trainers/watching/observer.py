"""Who hears every figure of a run. A loop tells its observers; they write, judge and report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from adaptery.trainers.config import RunConfig
    from adaptery.trainers.run_directory import RunDirectory
    from adaptery.trainers.watching.watcher import Watcher


class Observer(Protocol):
    """Hears what a run measures, in order; never changes it."""

    def row(self, figures: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`.

        Of training, all of them averages since the line before but `grad_norm`, the last step's:
        `step`, `epoch`, `loss` (nats per learned token), `learning_rate`, `grad_norm`,
        `tokens_per_second`, `learned_tokens_per_second`, `seconds` (of training so far, those
        before a resume included) and `memory_bytes` (in use now). Of a measurement on held-out
        rows: `step`, `eval.loss`, `eval.<metric>`.
        """

    def event(self, kind: str, step: int, sentence: str) -> None:
        """Something that a line of `events.jsonl` keeps.

        `kind` is one of `resume` (`step` is the last one done), `out_of_memory`, `best`,
        `early_stop`, or an alarm's name.
        """

    def sample(self, step: int, prompt: str, answer: str, ended: bool = True) -> None:
        """An answer that the model gave in mid-run.

        `ended` is false where `evaluation.max_new_tokens` cut it off before its end token.
        """

    def end(self) -> None:
        """The run has ended, in whatever way. Called once; nothing follows."""


class Recorder:
    """Writes `metrics.jsonl`, `events.jsonl` and `samples.jsonl` of a run directory."""

    def __init__(self, run: "RunDirectory") -> None:
        self.run = run

    def row(self, figures: Mapping[str, float]) -> None:
        self.run.append_metrics(dict(figures))

    def event(self, kind: str, step: int, sentence: str) -> None:
        self.run.append_event(kind, step, sentence)

    def sample(self, step: int, prompt: str, answer: str, ended: bool = True) -> None:
        self.run.append_sample(step, prompt, answer, ended)

    def end(self) -> None: ...


def make_observers(
    settings: "RunConfig", run: "RunDirectory", watcher: "Watcher"
) -> Sequence[Observer]:
    """Those of a run. The first writes the files, so that a loop need not.

    Raises:
        ConfigError: a reporter's package is not installed.
    """
    from adaptery.trainers.watching.reporters import make_reporters
    from adaptery.trainers.watching.watchman import Watchman

    watchman = Watchman(settings, run, watcher)
    return [Recorder(run), watchman, *make_reporters(settings, run, watcher)]
