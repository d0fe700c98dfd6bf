"""What `eval`, `calibrate` and `compare` share: versions with their bases, rows and metrics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from adaptery.base_model import open_base
from adaptery.cli.context import plugins, stderr
from adaptery.errors import UnknownName, UsageError
from adaptery.trainers.config import DataConfig, EvaluationConfig
from adaptery.types import AdapterRef, Manifest

if TYPE_CHECKING:
    from adaptery.registry.base import Registry
    from adaptery.trainers.data.rows import Dataset
    from adaptery.trainers.evaluation.bootstrap import Difference
    from adaptery.trainers.evaluation.candidates import Candidate
    from adaptery.trainers.evaluation.scoring import Evaluation, Metric

F = TypeVar("F", bound=Callable[..., Any])

data_option = click.option(
    "--data", required=True, metavar="FILE", help="Rows: JSONL, CSV, Parquet, or hf://ORG/NAME."
)
metrics_option = click.option(
    "--metrics",
    default="auto",
    show_default=True,
    metavar="NAMES",
    help="Of loss, perplexity and the metric plugins, with commas between; auto: accuracy and "
    "macro_f1 where answers are labels.",
)


def model_options(command: F) -> F:
    """How rows are read and put through a model."""
    for option in (
        click.option("--format", "form", default="auto", help="Data format.", show_default=True),
        click.option("--base", help="Where the base model is, if not where it was for training."),
        click.option(
            "--batch-size", type=click.IntRange(min=1), help="Rows at a time; as in training."
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "bf16", "fp16", "fp32"]),
            help="Arithmetic; as in training.",
        ),
    ):
        command = option(command)
    return command


def find_candidate(
    store: "Registry", ref: str, base: str | None, *, calibrated: bool = True
) -> "Candidate":
    """The version that `ref` means, with its thresholds, on its base or the one at `base`."""
    from adaptery.trainers.evaluation.candidates import Candidate

    version = store.resolve(AdapterRef.parse(ref))
    identity = version.manifest.base
    found = open_base(base or identity.id, None if base else identity.revision)
    tags = store.standing(version.name)[version.number].tags if calibrated else {}
    directory = store.materialize(version)
    return Candidate.of(str(version), version.manifest, directory, found, tags)


def read_data(source: str, form: str, manifest: Manifest) -> "Dataset":
    """The rows of `source`, whose columns go by the names that they had in training."""
    from adaptery.trainers.data.reading import read_rows
    from adaptery.trainers.evaluation.candidates import section

    columns = section(manifest, "data").get("columns") or {}
    settings = DataConfig(train=source, format=form, columns=columns)
    return read_rows(source, settings, plugins().load_all("data_formats"))


def load_metrics(wanted: str) -> "tuple[tuple[str, ...] | str, dict[str, Metric]]":
    """The names that were asked for, and the plugins to choose from.

    Raises:
        UnknownName: there is no such metric.
        UsageError: none is named.
    """
    from adaptery.trainers.evaluation.scoring import LABEL_METRICS, LOSSES

    names = tuple(name.strip() for name in wanted.split(",") if name.strip())
    if not names:
        raise UsageError("--metrics names no metric; leave it out for those that fit the data.")
    chosen = LABEL_METRICS if names == ("auto",) else names
    known = {*LOSSES, *plugins().registered("metrics")}
    for name in chosen:
        if name not in known:
            raise UnknownName("metric", name, known)
    metrics = {name: plugins().load("metrics", name) for name in chosen if name not in LOSSES}
    return ("auto" if names == ("auto",) else names), metrics


def measure(
    candidates: "list[Candidate]",
    rows: "Dataset",
    metrics: str,
    batch_size: int | None,
    precision: str | None,
) -> "tuple[dict[str, Evaluation], dict[str, Metric]]":
    """What the candidates say to the rows, and the metrics that were taken of it."""
    from adaptery.cli.progress import Bars
    from adaptery.trainers.evaluation.candidates import measure_all, section

    names, known = load_metrics(metrics)
    recorded = section(candidates[0].manifest, "evaluation")
    settings = EvaluationConfig.model_validate(
        {
            "metrics": names,
            "batch_size": batch_size or recorded.get("batch_size", 64),
            "max_new_tokens": recorded.get("max_new_tokens", 256),
        }
    )
    with Bars(stderr()) as bars:
        found = measure_all(
            candidates, rows.rows, known, settings, precision or candidates[0].precision, bars
        )
    taken = next(iter(found.values())).metrics
    return found, {name: metric for name, metric in known.items() if name in taken}


def in_order(metrics: Mapping[str, float], wanted: str) -> list[str]:
    """The metrics' names as they were asked for; all of them, losses first, where `auto` was."""
    names = [name.strip() for name in wanted.split(",")]
    return [name for name in names if name in metrics] or list(metrics)


def warn_of_known_rows(candidates: "Iterable[Candidate]", rows: "Dataset") -> None:
    """Say so if a candidate learned from the rows, or had its thresholds chosen by them."""
    for one in candidates:
        if one.adapter and one.manifest.data_digest == rows.digest:
            warn(
                f"{rows.source} holds the rows that {one.name} was trained on: what is measured is "
                "what it remembers, not what it can do. Measure on rows that were held out."
            )
        if one.calibrated_on == rows.digest:
            warn(
                f"{rows.source} holds the rows that the thresholds of {one.name} were chosen by, "
                "so it looks better on them than it is. Measure on other rows."
            )


def warn_of_tokenizers(candidates: "Sequence[Candidate]") -> None:
    """Say so if losses are of different tokens."""
    tokenizers = {one.base.tokenizer_digest for one in candidates if not one.task.labels}
    if len(tokenizers) > 1:
        warn(
            "These versions have different tokenizers, and a loss is per token: go by metrics of "
            "their answers, such as rouge or chrf, and not by loss and perplexity."
        )


def warn(sentence: str) -> None:
    stderr().print(sentence, style="yellow", soft_wrap=True)


def interval(difference: "Difference") -> str:
    """A difference as people read it: `+0.041 [+0.012, +0.070]`."""
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
