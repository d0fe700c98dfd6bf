"""Data sets on the Hub, read through `datasets`."""

import re
from dataclasses import dataclass
from pathlib import Path
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
    """The split: from the cache of `datasets`, or streamed if it is large.

    What is cached is on the disk twice, as downloaded and as Arrow, and read from there by the next
    run; what is streamed is nowhere, and fetched again by the next run.
    """
    from datasets import load_dataset_builder

    if Path(wanted.name).exists():
        raise LookupError(
            f"{wanted.name} is a path here, which would be read instead; go to another directory"
        )
    builder = load_dataset_builder(wanted.name, wanted.config, revision=wanted.revision)
    files = builder.config.data_files or {}
    if wanted.split not in files:
        raise LookupError(f"no split {wanted.split!r}; there are: {', '.join(map(str, files))}")
    if split_bytes(builder, wanted.split) > LARGE:
        return builder.as_streaming_dataset(wanted.split)
    builder.download_and_prepare()
    return builder.as_dataset(wanted.split)


def split_bytes(builder: Any, split: str) -> int:
    """The size of a split by its card, or of its files where the card is silent."""
    from huggingface_hub import HfFileSystem

    known = (builder.info.splits or {}).get(split)
    if known is not None and known.num_bytes:
        return int(known.num_bytes)
    system = HfFileSystem()
    return sum(system.info(url)["size"] for url in builder.config.data_files[split])
