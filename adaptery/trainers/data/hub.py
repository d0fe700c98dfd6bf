"""Data sets on the Hub, read through `datasets`."""

import re
from dataclasses import dataclass
from typing import Any

from adaptery.errors import DataError
from adaptery.trainers.data.files import Records, named, names_of

SCHEME = "hf://"
SOURCE = re.compile(
    r"hf://(?:datasets/)?(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?"
    r"(?:@(?P<revision>[^@:]+))?(?::(?P<split>\w+))?"
)
LARGE = 500_000_000  # bytes of a split; a larger one is streamed and not stored on the way


@dataclass(frozen=True, slots=True)
class HubSource:
    """One split of a data set on the Hub."""

    name: str
    config: str | None
    revision: str | None
    split: str

    @classmethod
    def parse(cls, source: str) -> "HubSource":
        """`hf://ORG/NAME[/CONFIG][@revision][:split]`, `datasets/` before ORG allowed.

        Raises:
            DataError: it is not of that form.
        """
        match = SOURCE.fullmatch(source)
        if not match:
            raise DataError(
                f"{source!r} is no data set on the Hub; write hf://ORG/NAME, and as needed "
                "/CONFIG, @REVISION and :SPLIT behind it, in this order."
            )
        return cls(match["name"], match["config"], match["revision"], match["split"] or "train")


def read_hub(source: str) -> Records:
    """The records of a split, numbered from 1.

    Raises:
        DataError: it cannot be had.
    """
    wanted = HubSource.parse(source)
    try:
        data = load(wanted)
        names = names_of(data.features)
        for number, record in enumerate(data, 1):
            yield number, named(dict(record), names)
    except Exception as error:
        raise DataError(
            f"{source} cannot be had from the Hub: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'}"
        ) from error


def load(wanted: HubSource) -> Any:
    """The split: from the cache of `datasets`, or streamed if it is large or of unknown size."""
    from datasets import load_dataset, load_dataset_builder

    where = (wanted.name, wanted.config)
    builder = load_dataset_builder(*where, revision=wanted.revision)
    splits = builder.info.splits or {}
    if splits and wanted.split not in splits:
        raise LookupError(f"no split {wanted.split!r}; there are: {', '.join(splits)}")
    size = splits[wanted.split].num_bytes if splits else 0
    return load_dataset(
        *where, revision=wanted.revision, split=wanted.split, streaming=size > LARGE
    )
