"""Before serving: does the base answer through our attention as it does by itself?

Decoders differ in ways that no list of names can capture. So each is tried: two sequences, in
pieces, in one batch, against the model's own forward pass. What does not agree is not served.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adaptery.base_model import LocalBase
from adaptery.errors import UsageError
from adaptery.serving.torch import attention
from adaptery.serving.torch.cache import SlotCache
from adaptery.serving.torch.lora import ActiveAdapters, adaptable_layers
from adaptery.serving.torch.model import Decoder, end_tokens
from adaptery.serving.torch.runner import Runner
from adaptery.serving.torch.sequence import Piece, Sequence

# Mean difference of the scores in units of their spread. Rounding in bfloat16 gives about 0.02,
# an attention that is not the model's own 0.5 and more.
TOLERANCE = 0.1


def try_out(model: PreTrainedModel, base: LocalBase, context: int) -> tuple[Decoder, SlotCache]:
    """The model, switched to our attention, and a cache that knows the shapes of its layers.

    Raises:
        UsageError: this architecture would not be computed right; the message says why.
    """
    vocabulary = model.get_input_embeddings().weight.shape[0]
    texts = [[(7 * i + shift) % int(vocabulary) for i in range(19)] for shift in (3, 11)]
    try:
        with torch.inference_mode():
            layers = linear_layers(model, texts[0])
            alone = torch.cat([scores_alone(model, text) for text in texts])
            model.set_attn_implementation(attention.NAME)
            decoder = Decoder(model, layers, end_tokens(model, base), int(vocabulary))
            cache = SlotCache(2, context)
            together = scores_together(Runner(decoder, cache, ActiveAdapters({})), texts)
        require_same(alone, together)
    except (UsageError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
        raise UsageError(
            f"The torch engine cannot run {type(model).__name__} as it should: {error}."
        ) from error
    return decoder, cache


def linear_layers(model: PreTrainedModel, text: list[int]) -> dict[str, torch.nn.Linear]:
    """The layers that adapters may change: those inside the decoder, so not the output layer."""
    layers = adaptable_layers(model, lambda: scores_alone(model, text), len(text))
    return {name: m for name, m in layers.items() if m is not model.get_output_embeddings()}


def scores_alone(model: PreTrainedModel, text: list[int]) -> Tensor:
    """The model's own scores of the token after `text`, shape (1, vocabulary)."""
    ids = torch.tensor([text], device=model.device)
    scores: Tensor = model(input_ids=ids, use_cache=False).logits[:, -1]
    return scores.float().cpu()


def scores_together(runner: Runner, texts: list[list[int]]) -> Tensor:
    """The same through a batch: a first piece, a later piece, a single last token."""
    a, b = (Sequence(list(text), slot=slot) for slot, text in enumerate(texts))
    for counts in ((7, 12), (11, 6), (1, 1)):
        pieces = [Piece(a, counts[0]), Piece(b, counts[1])]
        scores = runner.run(pieces)
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
