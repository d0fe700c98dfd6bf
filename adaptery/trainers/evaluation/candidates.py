"""Versions and bases that are asked the same rows, each as it was trained to be asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptery.base_model import LocalBase
from adaptery.classification import CALIBRATION, CALIBRATION_DATA, Classification
from adaptery.errors import BaseMismatch, DataError, UsageError, VerificationError
from adaptery.trainers.bake import TEMPLATE
from adaptery.trainers.config import EvaluationConfig
from adaptery.trainers.data.rows import Row, summarize
from adaptery.trainers.encoding import Example
from adaptery.trainers.evaluation.scoring import Evaluation, Metric, evaluate, wanted_metrics
from adaptery.trainers.loading import load_base, speed_up
from adaptery.trainers.method import Method
from adaptery.trainers.tasks.base import Task
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.making import remake_task
from adaptery.trainers.watching import Watcher
from adaptery.types import Manifest, sha256_of

if TYPE_CHECKING:
    from peft import PeftModel

BASE = "base"
"""The name of the base alone."""


@dataclass(frozen=True)
class Candidate:
    """A version, or where `adapter` is None its base alone, asked in the same way.

    `base.tokenizer` has the chat template of the training.
    """

    name: str
    manifest: Manifest
    base: LocalBase
    task: Task
    adapter: Path | None
    calibrated_on: str | None = None
    """The digest of the rows by which its thresholds were chosen."""

    @classmethod
    def of(
        cls,
        name: str,
        manifest: Manifest,
        directory: Path,
        base: LocalBase,
        tags: Mapping[str, str] | None = None,
    ) -> "Candidate":
        """A version with its files.

        Args:
            tags: the version's; its calibration is among them.

        Raises:
            BaseMismatch: it was trained on another base, or with another tokenizer.
            VerificationError: its chat template is not the one that it was trained with, or its
                calibration cannot be read.
            UsageError: its task cannot be understood.
        """
        base.require(manifest, name)
        base = with_template(name, manifest, directory, base)
        tags = tags or {}
        offsets = Classification.of(manifest).read_offsets(tags) if CALIBRATION in tags else ()
        task = remake_task(manifest, Forward(base.tokenizer), offsets)
        calibrated_on = tags.get(CALIBRATION_DATA) if offsets else None
        return cls(name, manifest, base, task, directory, calibrated_on)

    def untuned(self) -> "Candidate":
        """The base alone, asked as this version is and not calibrated.

        Raises:
            UsageError: the version has a classification head, and the base has none.
        """
        if self.task.head_labels:
            raise UsageError(
                f"{self.name} tells classes by a head that training made; the base alone has none, "
                "so it cannot be a baseline. Give another version."
            )
        task = remake_task(self.manifest, self.task.forward)
        return replace(self, name=BASE, task=task, adapter=None, calibrated_on=None)

    @property
    def precision(self) -> str:
        """The arithmetic that it was trained in."""
        return str(section(self.manifest, "training").get("precision", "auto"))

    @property
    def packing(self) -> str:
        """Whether its rows were packed, as `training.packing`."""
        return str(section(self.manifest, "training").get("packing", "auto"))


def section(manifest: Manifest, name: str) -> Mapping[str, Any]:
    """A group of the recorded configuration; empty where there is none."""
    found = manifest.config.get(name)
    return found if isinstance(found, dict) else {}


def with_template(name: str, manifest: Manifest, directory: Path, base: LocalBase) -> LocalBase:
    """The base with a tokenizer of its own that has the version's chat template."""
    base = LocalBase(base.directory, base.identity)
    if manifest.tokenizer_digest not in (None, base.tokenizer_digest):
        raise BaseMismatch(
            f"{name} was trained with another tokenizer than that of {base.directory}, so its "
            "tokens would mean something else. Use the base with the tokenizer of the training."
        )
    path = directory / TEMPLATE
    if path.is_file():
        base.tokenizer.chat_template = path.read_text(encoding="utf-8")
    template = base.tokenizer.chat_template
    found = sha256_of(str(template).encode()) if template else None
    if manifest.template_digest not in (None, found):
        raise VerificationError(
            f"{name} was trained with another chat template than there is here, so it would be "
            f"asked otherwise than it learned: digest {str(manifest.template_digest)[:12]} in the "
            f"manifest, {str(found)[:12]} here."
        )
    return base


def measure_all(
    candidates: Sequence[Candidate],
    rows: Sequence[Row],
    metrics: Mapping[str, Metric],
    settings: EvaluationConfig,
    precision: str,
    watcher: Watcher,
) -> dict[str, Evaluation]:
    """Every candidate's answers to the rows, by name, in order.

    A base is loaded once for all candidates on it; adapters are put on it and switched by PEFT.

    Args:
        metrics: to choose from; `settings.metrics` says which are wanted.
        precision: the arithmetic, as `training.precision`.

    Raises:
        DataError: rows that a candidate's task has no use for, or too long for its base.
        UsageError: the candidates' true answers are not the same.
        DoesNotFit: there is not enough memory for a base.
    """
    encoded = {one.name: encode(one, rows) for one in candidates}
    check_references(candidates, encoded)
    first = candidates[0]
    wanted = wanted_metrics(settings, first.task, encoded[first.name])
    chosen = {name: metrics[name] for name in wanted}
    found: dict[str, Evaluation] = {}
    for group in by_base(candidates):
        model: Any = load_base(group[0].base, group[0].task, Method({}), precision)
        packed = speed_up(model, group[0].packing) is None
        for number, one in enumerate(group):
            one.task.forward = replace(one.task.forward, packed=packed)
            with wearing(model, one, f"a{number}") as model:
                watcher.phase(f"evaluating {one.name}", len(rows))
                found[one.name] = evaluate(
                    one.task, model, encoded[one.name], chosen, settings, watcher
                )
    return {one.name: found[one.name] for one in candidates}


def encode(candidate: Candidate, rows: Sequence[Row]) -> list[Example]:
    """Rows as the candidate sees them. Raises `DataError` if it cannot."""
    examples = candidate.task.encode(rows)
    config, tokenizer = candidate.base.config, candidate.base.tokenizer
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    most = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    long = [f"{row.origin}: {len(row.ids)} tokens." for row in examples if len(row.ids) > most]
    if long:
        raise DataError(
            summarize(
                f"{len(long)} row(s) are longer than the {most} tokens that the base of "
                f"{candidate.name} has positions for. Shorten or remove them:",
                long,
            )
        )
    return examples


def check_references(
    candidates: Sequence[Candidate], encoded: Mapping[str, Sequence[Example]]
) -> None:
    """Refuse to compare what was asked for different answers."""
    truths = {one.name: list(map(one.task.reference, encoded[one.name])) for one in candidates}
    first = candidates[0].name
    for name, truth in truths.items():
        if truth != truths[first]:
            raise UsageError(
                f"{first} and {name} were trained to give different answers to the same rows, such "
                f"as {truths[first][0]!r} and {truth[0]!r}, so their scores cannot be compared."
            )


def by_base(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Those that one loaded model can be, together: of the same base and the same head."""
    groups: dict[tuple[str, tuple[str, ...]], list[Candidate]] = {}
    for one in candidates:
        key = one.base.identity.digest, one.task.head_labels
        groups.setdefault(key, []).append(one)
    return list(groups.values())


@contextmanager
def wearing(model: Any, candidate: Candidate, name: str) -> "Iterator[PeftModel]":
    """The model with the candidate's adapter and no other, known to PEFT as `name`."""
    from peft import PeftModel

    from adaptery.trainers.compute.lora import fuse

    adapted = isinstance(model, PeftModel)
    if candidate.adapter is None:
        if not adapted:
            yield model
            return
        with model.disable_adapter():
            yield model
        return
    if adapted:
        model.load_adapter(candidate.adapter, name)
    else:
        model = PeftModel.from_pretrained(model, candidate.adapter, adapter_name=name)
    model.set_adapter(name)
    fuse(model)
    yield model
