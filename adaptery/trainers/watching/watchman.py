"""The observer that raises the alarms while a run goes on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from adaptery.trainers.watching.alarms import findings
from adaptery.trainers.watching.history import History

if TYPE_CHECKING:
    from adaptery.trainers.config import RunConfig
    from adaptery.trainers.run_directory import RunDirectory
    from adaptery.trainers.watching.watcher import Watcher


class Watchman:
    """Looks at every row; what it finds is said once and kept in `events.jsonl`.

    A resumed run's is told what was measured before, and does not say again what was said then.
    """

    def __init__(self, settings: "RunConfig", run: "RunDirectory", watcher: "Watcher") -> None:
        self.run, self.watcher = run, watcher
        events = run.events()
        self.history = History.of(settings, run.metrics(), run.samples(), events)
        self.said = {str(event["kind"]) for event in events}
        self.due = 0

    def row(self, figures: Mapping[str, float]) -> None:
        """Look at every row of a short run; at each further hundredth of a long one."""
        self.history.add(figures)
        rows = len(self.history["loss"])
        if rows >= self.due or "loss" not in figures:
            self.due = max(rows + 1, int(rows * 1.01))
            self.look()

    def event(self, kind: str, step: int, sentence: str) -> None:
        self.history.events.append({"kind": kind, "step": step, "sentence": sentence})
        self.said.add(kind)  # the loop has told it already

    def sample(self, step: int, prompt: str, answer: str, ended: bool = True) -> None:
        told = {"step": step, "prompt": prompt, "answer": answer, "ended": ended}
        self.history.samples.append(told)

    def end(self) -> None:
        self.look()

    def look(self) -> None:
        """Say what is new."""
        for finding in findings(self.history):
            if finding.alarm not in self.said:
                self.said.add(finding.alarm)
                self.run.append_event(finding.alarm, finding.step, str(finding))
                self.watcher.say(f"warning: {finding}")
