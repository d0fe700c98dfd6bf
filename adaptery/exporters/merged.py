"""The adapter folded into the base's weights, W + B A · scaling: a plain model, then checked.

The sum is taken in fp32 and rounded once. What was written is loaded again from its files and asked
the version's probe prompts: a merge that lost the adapter, or tied weights that come back untied
(transformers#45127), shows there.
"""

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptery.errors import InvalidAdapter, UsageError, VerificationError
from adaptery.exporters.base import ExportJob

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

LIMIT = 0.1  # nats by which a likely token's log-probability may move; rounding to bf16 stays below
LIKELY = 5
FALLBACK_TEXT = "The package provides a library and some tools."


def export_merged(job: ExportJob) -> Mapping[str, float | int | str]:
    """Write the merged model; see `Exporter`."""
    if job.output.exists():
        raise UsageError(f"{job.output} is there already. Name a folder that is not there yet.")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    partial = job.output.with_name(f".{job.output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    prompts = probe_prompts(job)
    try:
        wanted = write_merged(job, partial, prompts)
        figures = check(partial, prompts, wanted, job)
        partial.replace(job.output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return figures


def write_merged(
    job: ExportJob, directory: Path, prompts: Sequence[Sequence[int]]
) -> "list[torch.Tensor]":
    """Write the merged model and return what base and adapter apart say to the prompts."""
    adapted = apply_adapter(job)
    wanted = [next_token_scores(adapted, prompt) for prompt in prompts]
    merged = adapted.merge_and_unload(safe_merge=True)
    left = [name for name, _ in merged.named_parameters() if "lora" in name]
    if left:
        raise VerificationError(
            f"{len(left)} adapter tensors were left after merging, such as {left[0]}."
        )
    merged.to(output_dtype(job)).save_pretrained(directory)
    tokenizer = copy.deepcopy(job.base.tokenizer)
    template = job.adapter / "chat_template.jinja"
    if template.is_file():
        tokenizer.chat_template = template.read_text(encoding="utf-8")
    tokenizer.save_pretrained(directory)
    return wanted


def apply_adapter(job: ExportJob) -> "PeftModel":
    """Base and adapter apart, in fp32.

    Raises:
        InvalidAdapter: the adapter cannot be applied in full. PEFT itself makes missing tensors up
            and drops those that find no layer.
    """
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(job.base.directory, dtype=torch.float32)
    own = {f"base_model.model.{name}" for name in base.state_dict()}
    try:
        adapted = PeftModel.from_pretrained(base, job.adapter)
    except (ValueError, RuntimeError) as error:  # no such layer, or one of another size
        cause = " ".join("".join(str(error).splitlines()[:2]).split())
        raise InvalidAdapter(f"{job.version} cannot be applied to its base: {cause}") from error
    applied = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    with safe_open(job.adapter / "adapter_model.safetensors", framework="pt") as file:
        # Beside an adapter of the embeddings PEFT writes the base's own.
        given = {key for key in file.keys() if key.replace(".base_layer", "") not in own}  # noqa: SIM118
    if applied != given:
        names = sorted(applied ^ given)
        raise InvalidAdapter(
            f"{job.version} cannot be applied to its base in full: {len(names)} tensors are "
            f"missing or find no layer, such as {names[0]}."
        )
    return adapted


def output_dtype(job: ExportJob) -> "torch.dtype":
    import torch

    declared = job.base.config.get("dtype") or job.base.config.get("torch_dtype") or "float32"
    name = str(declared) if job.dtype == "base" else job.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check(
    directory: Path,
    prompts: Sequence[Sequence[int]],
    wanted: "Sequence[torch.Tensor]",
    job: ExportJob,
) -> dict[str, float | int | str]:
    """Compare the written model with base and adapter apart, in fp32 arithmetic both.

    Raises:
        VerificationError: a likely token's log-probability is further off than `LIMIT`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    furthest, same = 0.0, 0
    for prompt, before in zip(prompts, wanted, strict=True):
        after = next_token_scores(model, prompt)
        likely = before.topk(LIKELY).indices
        furthest = max(furthest, (after[likely] - before[likely]).abs().max().item())
        same += int(after.argmax() == before.argmax())
    if not furthest <= LIMIT:
        raise VerificationError(
            f"The merged model does not say what {job.version} says: a likely token's "
            f"log-probability is off by {furthest:.3f} nats (limit {LIMIT}). Nothing was written. "
            "Try --dtype float32."
        )
    return {
        "prompts": len(prompts),
        "same_first_token": same,
        "largest_difference_nats": furthest,
        "parameters": model.num_parameters(),
        "dtype": str(output_dtype(job)).removeprefix("torch."),
    }


def probe_prompts(job: ExportJob) -> list[Sequence[int]]:
    """The version's own probe, or one sentence where it has none."""
    probe: list[Sequence[int]] = [prompt.token_ids for prompt in job.version.manifest.probe]
    return probe or [job.base.tokenizer(FALLBACK_TEXT)["input_ids"]]


def next_token_scores(model: "PreTrainedModel", prompt: Sequence[int]) -> "torch.Tensor":
    """Log-probabilities (nats) of the token after `prompt`, shape (vocabulary,)."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(prompt)]), use_cache=False).logits
    return logits[0, -1].float().log_softmax(0)
