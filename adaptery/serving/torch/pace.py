"""How many tokens of prompts a step may compute without stalling the answers in it."""

from dataclasses import dataclass

STALL = 0.35  # of a step's time without prompts, which a prompt may add to it
LEAST = 4  # tokens: fewer are not worth their overhead
SHORT = 64  # tokens: what is left of a prompt is not cut into smaller pieces
UNKNOWN = 64  # tokens, until steps have been measured
NEWS = 0.2  # weight of the latest measurement


@dataclass
class Pace:
    """Learns what steps cost: `answers` seconds for the answers, `token` more per prompt token."""

    limit: int
    answers: float | None = None
    token: float | None = None

    def budget(self, answering: int, prompts: int, first: int) -> int:
        """Tokens that `prompts` requests, the first missing `first`, may compute beside answers.

        A prompt may make a step longer by the share STALL. Where more wait than are answered, it
        may be longer in proportion: their wait weighs more than the others' stall. A short prompt
        is computed in one longer step, because each of several would have its own overhead.
        """
        if not answering or not prompts:
            return self.limit
        if self.answers is None or not self.token:
            return min(UNKNOWN, self.limit)
        fair = STALL * self.answers / self.token * max(1.0, prompts / answering)
        whole = first if first <= SHORT else LEAST
        return min(max(LEAST, whole, int(fair)), self.limit)

    def measured(self, answering: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from a step.

        What prompts beside answers cost is what a step takes more than one without prompts: more
        than by themselves, if they look back at a long past.
        """
        if not prompt_tokens:
            self.answers = mixed(self.answers, seconds)
        else:
            rest = seconds - (self.answers or 0.0) if answering else seconds
            self.token = mixed(self.token, max(rest, 0.0) / prompt_tokens)


def mixed(old: float | None, new: float) -> float:
    return new if old is None else old + NEWS * (new - old)
