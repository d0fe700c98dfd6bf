"""Before serving: does the base answer through our attention as it does by itself?

Decoders differ in ways that no list of names can capture. So each is tried: two sequences, in
pieces, in one batch, against the model's own forward pass. What does not agree is not served.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import UsageError
from adaptery.serving.torch import attention
from adaptery.serving.torch.blocks import needed
from adaptery.serving.torch.cache import KeyValueCache
from adaptery.serving.torch.kernels.calls import Kernels
from adaptery.serving.torch.kernels.modules import gated_parts, replace_modules
from adaptery.serving.torch.kernels.segments import Segmented
from adaptery.serving.torch.layers import Projection, shared_inputs
from adaptery.serving.torch.lora import ActiveAdapters, Stacked
from adaptery.serving.torch.model import Decoder, end_tokens
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.sequence import Piece, Sequence

# Mean difference of the scores in units of their spread. Rounding in bfloat16 gives about 0.02,
# an attention that is not the model's own 0.5 and more.
TOLERANCE = 0.1
WINDOW = 5  # tokens


def try_out(
    model: PreTrainedModel, base: LocalBase, kernels: Kernels | None = None
) -> tuple[Decoder, KeyValueCache]:
    """The model, switched to our attention and layers, and a cache that knows their shapes.

    What `kernels` can compute they do, if there are any.

    Raises:
        UsageError: this architecture would not be computed right; the message says why.
    """
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    texts = [[(7 * i + shift) % vocabulary for i in range(19)] for shift in (3, 11)]
    cache = KeyValueCache(2 * needed(len(texts[0])))
    try:
        with torch.inference_mode(), short_windows(model):
            model.set_attn_implementation("eager")  # other attention of its own may drop soft caps
            alone: list[Tensor] = []
            groups = shared_inputs(
                model, lambda: alone.append(scores_alone(model, texts[0])), len(texts[0])
            )
            alone += [scores_alone(model, text) for text in texts[1:]]
            decoder = rebuilt(model, base, groups, vocabulary, kernels)
            together = scores_together(Runner(decoder, cache), texts)
        require_same(torch.cat(alone), together)
    except (UsageError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise UsageError(
            f"The torch engine cannot run {type(model).__name__} as it should: {error}."
        ) from error
    return decoder, cache


@contextmanager
def short_windows(model: PreTrainedModel) -> Iterator[None]:
    """For as long as this lasts the model sees few tokens back, if ever: fewer than are tried."""
    config: Any = model.config.get_text_config()
    context = getattr(config, "max_position_embeddings", None) or 0
    shortened = [
        (owner, name, size)
        for owner in (config, *model.modules())
        for name in ("sliding_window", "attention_chunk_size")
        if isinstance(size := getattr(owner, name, None), int) and size < context
    ]
    for owner, name, _ in shortened:
        setattr(owner, name, WINDOW)
    try:
        yield
    finally:
        for owner, name, size in shortened:
            setattr(owner, name, size)


def rebuilt(
    model: PreTrainedModel,
    base: LocalBase,
    groups: list[dict[str, nn.Linear]],
    vocabulary: int,
    kernels: Kernels | None,
) -> Decoder:
    """The model with our attention, and with its linear layers computed by groups."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    head: Any = model.get_output_embeddings()
    tied = head.weight is model.get_input_embeddings().weight
    active: ActiveAdapters = Stacked() if kernels is None else Segmented(kernels)
    # The head gets the chosen tokens only. One that is tied would be held twice in another order.
    groups = [group for group in groups if head not in group.values()]
    layers = {name: layer for group in groups for name, layer in group.items()}
    gated = {} if kernels is None else gated_parts(model)
    projections = [Projection(group, active, kernels) for group in groups]
    if not tied:
        Projection({"head": head}, Stacked(), kernels)
    elif kernels is not None and head.bias is None:
        head.forward = partial(kernels.plain_linear, weight=head.weight)
    if kernels is not None:
        replace_modules(model, kernels, projections, gated)
        if kernels.multiplies:
            # Nothing of weight is left to torch, whose threads would wait where ours compute.
            torch.set_num_threads(1)
    model.set_attn_implementation(attention.NAME)
    end_ids = end_tokens(model, base)
    return Decoder(model, layers, active, end_ids, vocabulary, weights, kernels)


def scores_alone(model: PreTrainedModel, text: list[int]) -> Tensor:
    """The model's own scores of the token after `text`, shape (1, vocabulary)."""
    ids = torch.tensor([text], device=model.device)
    scores: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1]
    return scores.float().cpu()


def scores_together(runner: Runner, texts: list[list[int]]) -> Tensor:
    """The same through a batch: a first piece, a later piece, a single last token."""
    own = needed(len(texts[0]))
    a, b = (
        Sequence(list(text), table=list(range(own * i, own * (i + 1))))
        for i, text in enumerate(texts)
    )
    for counts in ((7, 12), (11, 6), (1, 1)):
        pieces = [Piece(a, counts[0]), Piece(b, counts[1])]
        scores = runner.run(pieces).float().cpu()
        for piece in pieces:
            piece.sequence.computed += piece.count
    return scores


def require_same(expected: Tensor, actual: Tensor) -> None:
    if actual.shape != expected.shape:
        raise UsageError("it does not return the scores of chosen tokens only")
    difference = (expected - actual).abs().mean() / expected.std().clamp_min(1e-12)
    if not difference <= TOLERANCE:
        raise UsageError(
            f"through the engine's attention its scores differ by {difference:.2f} of their "
            f"spread, where {TOLERANCE} is allowed"
        )
