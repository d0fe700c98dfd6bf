"""What an engine is: it holds one base model and some versions, and generates tokens.

Small on purpose, because the torch engine and vLLM both stand behind it. Names, aliases, HTTP,
chat templates and stop rules of the API are the server's business, not the engine's.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptery.base_model import LocalBase
from adaptery.serving.grammar import Grammar


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens. What is obeyed, in this order:

    1. `logit_bias`: token → number added to its score.
    2. `repetition_penalty` over the tokens of prompt and answer, as in transformers and vLLM;
       `frequency_penalty` and `presence_penalty` over those of the answer, as OpenAI has them.
    3. `grammar`: only tokens with which the answer can still match it.
    4. `min_tokens`: no end of the answer before; stop strings do not count before either.
    5. `temperature`; 0 takes the best and ends here.
    6. `top_k` most likely tokens (0: all; those as likely as the last stay too), the fewest that
       together have `top_p`, those at least `min_p` times as likely as the best; each of what the
       one before has left.

    `seed` makes the choice repeatable, whoever else is in the batch. The answer ends at the base's
    end tokens (unless `ignore_eos`), at `stop_token_ids`, at `stop` strings, when its grammar is
    complete, and at `max_tokens`.

    `logprobs` asks for that many top log-probabilities (nats) beside the chosen token's own;
    None asks for none at all. `scored` are tokens whose log-probabilities are wanted whatever is
    chosen, such as label words. All are of the model's own distribution, before step 1.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    scored: tuple[int, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt for the base, or for the version loaded as `adapter` (its `Version.engine_name`).

    What an engine keeps of prompts serves other requests of the same adapter and `tenant` only: how
    fast an answer comes must not tell anyone what others have asked.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    adapter: str | None = None
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step added to an answer.

    `text` may be empty while bytes of a character, or of a stop string, are still open.
    `finish_reason` is `stop` or `length` on the last chunk and None before. `scores` are the
    log-probabilities (nats) that this step gave to the tokens `SamplingParams.scored`.
    """

    token: int
    text: str
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish_reason: str | None = None
    scores: tuple[float, ...] = ()


class Engine(Protocol):
    """One base model, many versions of adapters, all answering in the same batches."""

    base: LocalBase
    max_context: int
    """Prompt and answer together, in tokens."""
    state: Mapping[str, str | int]
    """What it runs with, known once it has started: number format, threads, budgets in bytes."""
    restarts: int
    """How often it has been started anew after it had ended."""

    async def start(self) -> None:
        """Load the base and begin to answer. Raises `DoesNotFit`."""

    async def close(self) -> None:
        """Stop; requests in flight get an `EngineError`."""

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""

    async def load(self, name: str, directory: Path) -> None:
        """Hold the version `name`; requests in flight are not disturbed. A no-op if held already.

        Raises:
            InvalidAdapter: it cannot be applied in full on this base.
        """

    async def unload(self, name: str) -> None:
        """Forget the version `name` once no request uses it."""

    async def pin(self, names: frozenset[str]) -> None:
        """Keep these of the loaded versions in memory, and no others for that reason alone."""

    def loaded(self) -> frozenset[str]:
        """The versions held now."""

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Chunk, None]:
        """Answer token by token. Closing the generator cancels the request.

        Raises:
            DoesNotFit: the prompt and `max_tokens` exceed `max_context`.
            EngineError: the request failed; others go on.
        """
