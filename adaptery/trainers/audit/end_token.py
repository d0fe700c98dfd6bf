"""Whether the base can say its end token at all.

A base whose end token was never trained has a row in its output layer that means nothing, and LoRA
leaves that layer as it is: the adapter learns everything but to stop (QwenLM/Qwen3#1064).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from adaptery.base_model import LocalBase
from adaptery.trainers.data.findings import Finding

if TYPE_CHECKING:
    import torch

OUTPUTS = ("lm_head.weight", "embed_out.weight", "output.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
SAMPLE = 512  # rows that a trained token's is compared with
LEAST = 0.25  # of the median length of rows; trained tokens are rarely below half of it


def untrained_end_token(base: LocalBase) -> Iterator[Finding]:
    """A warning where the end token's row is nothing like those of other tokens.

    Only those rows are read, not the weights. Nothing is said of bases laid out in other ways.
    """
    end = base.tokenizer.eos_token_id
    rows = sampled_rows(base, end) if end is not None else None
    if rows is None:
        return
    lengths = rows.float().norm(dim=1)
    share = float(lengths[0] / lengths[1:].median().clamp(min=1e-12))
    if share < LEAST:
        yield Finding(
            "untrained-end-token",
            "warning",
            f"The base's end token {base.tokenizer.eos_token!r} looks untrained: its row in the "
            f"output layer has {share:.0%} of the usual length, and an adapter does not change "
            "that layer, so answers may never end.",
            "Use the base's instruction-tuned sibling, or a tokenizer whose end token was trained.",
        )


def sampled_rows(base: LocalBase, end: int) -> "torch.Tensor | None":
    """The output layer's rows of the end token and of tokens spread over the vocabulary."""
    import torch
    from safetensors import safe_open

    for name in (*OUTPUTS, *EMBEDDINGS):
        for shard in sorted(base.directory.glob("*.safetensors")):
            with safe_open(shard, "pt") as file:
                found = next((key for key in file.keys() if key.endswith(name)), None)  # noqa: SIM118
                if found is None:
                    continue
                matrix = file.get_slice(found)
                size = matrix.get_shape()[0]
                if end >= size:
                    return None
                places = range(0, size, max(1, size // SAMPLE))
                return torch.cat([matrix[place : place + 1] for place in (end, *places)])
    return None
