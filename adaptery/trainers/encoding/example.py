"""What encoding makes of a row, or why it makes nothing of it."""

from dataclasses import dataclass

from adaptery.errors import DataError

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `labels` is `ids` where learned and `IGNORED` elsewhere; both of shape (tokens,).

    `prompt` is what a server would be asked with: all before the last answer.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: str
    origin: str
    label: int | None = None
    """The class' place among the labels, where the task is to tell classes."""
    segments: tuple[int, ...] = ()
    """Which text a token is of (BERT's token types), where an encoder was pre-trained with it."""

    @property
    def learned(self) -> int:
        """The number of learned tokens; a class that a head tells counts for one."""
        learned = len(self.labels) - self.labels.count(IGNORED)
        return learned or int(self.label is not None)


class Unencodable(DataError):
    """A row that this base's tokenizer or template cannot make an example of that teaches right."""

    def __init__(self, code: str, message: str, remedy: str, origin: str = "") -> None:
        self.code, self.message, self.remedy, self.origin = code, message, remedy, origin
        super().__init__(f"{origin}: {message} {remedy}" if origin else f"{message} {remedy}")

    def at(self, origin: str) -> "Unencodable":
        """The same of the row at `origin`."""
        return Unencodable(self.code, self.message, self.remedy, origin)
