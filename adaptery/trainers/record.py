"""What a manifest records of a run: enough to do it again, and nothing of the machine."""

import importlib.metadata
import sys
from typing import Any

from adaptery.trainers.loading import precision
from adaptery.trainers.work import Work
from adaptery.types import Manifest, ProbePrompt, sha256_of

PACKAGES = ("adaptery", "torch", "transformers", "tokenizers", "peft", "accelerate", "bitsandbytes")
# Where files lie, how the run was watched, and what stands elsewhere in the manifest.
INCIDENTAL = {"name", "base", "revision", "method", "runs", "report_to"}


def make_manifest(
    work: Work,
    scores: dict[str, float],
    probe: tuple[ProbePrompt, ...],
    outcome: dict[str, Any],
) -> Manifest:
    """What there is to say of the result, its files excepted.

    Args:
        outcome: how training went where that is not what was configured, such as the best step.
    """
    template = work.template
    return Manifest(
        files=(),
        base=work.base.identity,
        method=work.settings.method,
        config=recorded(work) | ({"outcome": outcome} if outcome else {}),
        data_digest=work.train.digest,
        template_digest=sha256_of(template.encode()) if template else None,
        tokenizer_digest=work.base.tokenizer_digest,
        packages=package_versions(),
        seed=work.settings.training.seed,
        metrics=scores,
        probe=probe,
    )


def recorded(work: Work) -> dict[str, Any]:
    """The part of a configuration that shapes the result, with what was left open filled in.

    Of files there is the name, and for held-out rows a digest; the manifest has the other rows'.
    """
    config = work.settings.model_dump(mode="json", exclude=INCIDENTAL)
    rate = work.settings.training.learning_rate or work.parts.method.learning_rate
    config["training"]["learning_rate"] = rate
    config["arithmetic"] = arithmetic(work.settings.training.precision)
    config["options"] = work.parts.method.options.model_dump(mode="json")
    config["task"] = work.task.recorded()
    config["data"]["format"] = work.train.format
    for key in ("train", "eval"):
        source = config["data"][key]
        if source and "://" not in source:
            config["data"][key] = source.replace("\\", "/").rpartition("/")[2]
    dropped = len(work.train.rows) - len(work.examples)
    if dropped:
        config["dropped_rows"] = dropped
    if work.held_out:
        config["held_out_digest"] = work.held_out.digest
    return config


def arithmetic(wanted: str) -> dict[str, Any]:
    """By what the result was computed, as far as its last bits depend on it."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "dtype": str(precision(wanted)).removeprefix("torch."),
        "processor": torch.cuda.get_device_name()
        if gpu
        else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def package_versions() -> dict[str, str]:
    """What computed the result."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
