"""When a run ends and which of its checkpoints it keeps: signals, the best one, patience."""

import math
import signal
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adaptery.trainers.evaluation.scoring import LOSSES


@dataclass
class Best:
    """The best measurement so far, and for how many there was no better one."""

    metric: str = "loss"
    patience: int | None = None
    step: int | None = None
    score: float = math.nan
    waited: int = 0

    def hear(self, step: int, scores: Mapping[str, float]) -> bool:
        """Take in a measurement; returns whether it is the best so far."""
        score = scores[self.metric]
        if not self.beaten_by(score):
            self.waited += 1
            return False
        self.step, self.score, self.waited = step, score, 0
        return True

    def beaten_by(self, score: float) -> bool:
        """A score that is no number beats nothing."""
        if self.step is None:
            return not math.isnan(score)
        return score < self.score if self.metric in LOSSES else score > self.score

    @property
    def patience_is_over(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def __str__(self) -> str:
        return f"step {self.step} with a held-out {self.metric} of {self.score:.4g}"

    def told(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {"step": self.step, "metric": self.metric, "score": self.score}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return asdict(self)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`; metric and patience are the configuration's."""
        self.step, self.score, self.waited = state["step"], state["score"], state["waited"]


class StopSignals:
    """Lets the step in hand end before Ctrl-C or SIGTERM stops the run; a second stops at once.

    A launcher passes on the signal that its processes had from the terminal already, so `patient`
    ones wait for the end of the step however often they are told.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.patient = patient
        self.received = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: object) -> None:
        if self.received and not self.patient:
            raise KeyboardInterrupt
        self.received = True
