"""Does the engine answer as the trained model did?

A version carries a few prompts with the trained model's most likely next tokens, and what the
base alone gives to them. Replayed through the engine, they tell whether the adapter is applied.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from statistics import fmean

from adaptery.errors import ProbeMismatch
from adaptery.serving.engine import Engine, GenerationRequest, SamplingParams
from adaptery.types import ProbePrompt, Version

log = logging.getLogger(__name__)

TOP = 20  # scores asked of the engine
ROUNDING = 0.1  # nats: what number formats may differ by, however little the adapter changes
SHARE = 0.2  # of the distance between base and trained model


async def replay(engine: Engine, version: Version) -> None:
    """Do nothing if `engine`, which holds the version, is near to the trained model.

    Near means within 0.1 nats, or within a fifth of the distance of the base alone, on average over
    the trained model's most likely tokens.

    Raises:
        ProbeMismatch: it is not; the message gives both distances.
    """
    fitting = [p for p in version.manifest.probe if len(p.token_ids) < engine.max_context]
    if not fitting:
        log.warning("%s has no probe that fits here; it is served without a check.", version)
        return
    answers = await asyncio.gather(
        *[next_scores(engine, version.engine_name, prompt.token_ids) for prompt in fitting]
    )
    distance, change = distances(fitting, answers)
    allowed = max(ROUNDING, SHARE * change)
    if not distance <= allowed:
        raise ProbeMismatch(
            f"{version} does not answer here as it did when it was trained, so it is not served: "
            f"the log-probabilities of its probe differ by {distance:.3f} on average, where "
            f"{allowed:.3f} is allowed (the base alone differs by {change:.3f})."
        )


def distances(
    probe: Sequence[ProbePrompt], answers: Sequence[Mapping[int, float]]
) -> tuple[float, float]:
    """How far the engine, and how far the base, is from the trained model (nats, on average).

    The engine gives few tokens. For the others its lowest score stands in, and then the base's
    score is not taken for lower either: else an engine that answers as the base would seem near.
    """
    engine, base = [], []
    for prompt, scores in zip(probe, answers, strict=True):
        lowest = min(scores.values())
        for score in prompt.top:
            engine.append(abs(score.trained - scores.get(score.token, lowest)))
            base.append(abs(score.trained - max(score.base, lowest)))
    return fmean(engine), fmean(base)


async def next_scores(engine: Engine, name: str, prompt: tuple[int, ...]) -> Mapping[int, float]:
    """The engine's most likely tokens after `prompt`, with their log-probabilities (nats)."""
    sampling = SamplingParams(max_tokens=1, temperature=0, logprobs=TOP)
    async with aclosing(engine.generate(GenerationRequest(prompt, sampling, name))) as chunks:
        chunk = await anext(chunks)
    return dict(chunk.top_logprobs)
