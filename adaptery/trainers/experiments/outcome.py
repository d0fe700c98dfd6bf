"""What became of one run among many, as its folder keeps it."""

from pathlib import Path
from typing import Any, Literal

from adaptery.types import Value

FILE = "outcome.json"
Status = Literal["finished", "diverged", "pruned", "does not fit", "failed"]


class Measured(Value):
    """What was measured of a run that ended well.

    Seconds of training count neither loading nor evaluation. Memory is in bytes: `peak` the most
    that the process held while training (on a GPU its allocator), `loaded` what it held with the
    base loaded and nothing trained yet. `base_parameters` are those of the base's files.
    """

    metrics: dict[str, float]
    labels: tuple[str, ...] = ()
    """The classes in the order of an answer's scores, where there are classes."""
    training_seconds: float
    seconds: float
    peak: int
    loaded: int
    trainable_parameters: int
    base_parameters: int
    size: int
    """Bytes of the adapter's files."""

    @property
    def share(self) -> float:
        """Trainable parameters as a fraction of the base's."""
        return self.trainable_parameters / max(1, self.base_parameters)

    @property
    def above(self) -> int:
        """Bytes that training took beyond the loaded base."""
        return max(0, self.peak - self.loaded)


class Outcome(Value):
    """How a run ended: `measured` if it finished, or a sentence of what went wrong."""

    status: Status
    sentence: str = ""
    run: str | None = None
    """The run directory, relative to the folder."""
    measured: Measured | None = None

    @property
    def over(self) -> bool:
        """Whether to run it again would only say the same again."""
        return self.status in ("finished", "diverged", "pruned")

    def write(self, folder: Path) -> None:
        """Into the folder, whole or not at all."""
        partial = folder / f"{FILE}.partial"
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> "Outcome | None":
        """What a folder says; None while its run is not over, or of an unreadable word."""
        try:
            return cls.model_validate_json((folder / FILE).read_bytes())
        except (OSError, ValueError):
            return None

    def data(self) -> dict[str, Any]:
        """For JSON."""
        more = {}
        if self.measured:
            more = {"share": self.measured.share, "above_base": self.measured.above}
        return self.model_dump(mode="json") | more
