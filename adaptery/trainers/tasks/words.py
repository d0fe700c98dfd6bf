"""Classes told by a decoder in label words, such as `yes` and `no`.

The decision is between label words only: at each token of a word, between the tokens with which
label words go on (one softmax over as many tokens as there are labels, where words are one token
long). Its loss is what class weights weigh. That the answer is a label word at all, and ends after
it, is learned beside it and never weighed, so that a chat request gets a word and an end.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from adaptery.classification import Classification
from adaptery.errors import ConfigError
from adaptery.trainers.audit import check_label_words
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Conversation, Labelled, Message, Row
from adaptery.trainers.encoding import IGNORED, Encoder, Example
from adaptery.trainers.tasks.base import Answer, Task
from adaptery.trainers.tasks.classes import label_of
from adaptery.trainers.tasks.forward import Forward

if TYPE_CHECKING:
    import torch


class LabelWords(Task):
    """`weights` has one number for each label; `offsets` are calibrated ones, 0 where not given."""

    def __init__(
        self,
        forward: Forward,
        settings: TaskConfig,
        classes: Classification,
        weights: Sequence[float],
        offsets: Sequence[float] = (),
    ) -> None:
        """Raises `DataError` if label words cannot be told apart fairly."""
        super().__init__(forward)
        self.settings, self.classes, self.labels = settings, classes, classes.labels
        self.weights, self.offsets = weights, offsets
        self.encoder = Encoder(forward.tokenizer)
        tokens = dict(zip(self.labels, self.word_tokens, strict=True))
        check_label_words(classes.words, tokens, self.tokens_of)

    @cached_property
    def word_tokens(self) -> list[tuple[int, ...]]:
        """Each label word's tokens, as they follow the opened assistant's turn."""
        chats = [self.chat(Labelled(("text",) * self.classes.texts, l, "")) for l in self.labels]
        return [learned_tokens(self.encoder.encode(chat))[:-1] for chat in chats]

    def tokens_of(self, word: str) -> tuple[int, ...]:
        """The tokens of any word where a label word stands."""
        asked = (Message("user", "text"), Message("assistant", word))
        return learned_tokens(self.encoder.encode(Conversation(asked, "")))[:-1]

    @property
    def length(self) -> int:
        """Tokens of a label word."""
        return len(self.word_tokens[0])

    def choices(self, label: int, position: int) -> list[int]:
        """The tokens that may stand at `position` of a label word which began like `label`'s."""
        begun = self.word_tokens[label][:position]
        return sorted({word[position] for word in self.word_tokens if word[:position] == begun})

    def chat(self, row: Row) -> Conversation:
        """The row as a conversation that ends with the label word."""
        word = self.classes.words[label_of(row, self.classes.kind)]
        if isinstance(row, Labelled):
            asked = self.classes.messages(row.texts)
            before = tuple(Message(m["role"], m["content"]) for m in asked)
        else:
            assert isinstance(row, Conversation)
            before = row.prompt
            if self.settings.instruction:
                raise ConfigError(
                    "task.instruction is for rows that hold texts alone; these are chats, which "
                    "ask by themselves. Take it out."
                )
        return Conversation((*before, Message("assistant", word)), row.origin)

    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        examples = self.encoder.encode_all([self.chat(row) for row in rows], advance)
        return [
            last_answer_only(
                replace(example, label=self.labels.index(label_of(row, self.classes.kind))),
                self.length + 1,
            )
            for row, example in zip(rows, examples, strict=True)
        ]

    def reference(self, row: Example) -> str:
        assert row.label is not None
        return self.labels[row.label]

    def weight(self, row: Example) -> float:
        return 1.0

    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        import torch

        logits, tokens, _ = self.forward.learned_logits(model, rows)
        logits = logits.float().view(len(rows), self.length + 1, -1)
        whole = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), tokens, reduction="none"
        ).view(len(rows), -1)
        decisions = self.decisions(logits, [row.label or 0 for row in rows])
        weights = torch.tensor([self.weights[row.label or 0] for row in rows]).to(decisions)
        return (whole.sum(1) + (weights - 1) * decisions).sum()

    def decisions(self, logits: "torch.Tensor", labels: Sequence[int]) -> "torch.Tensor":
        """What each row's class costs among the classes (nats), shape (rows,).

        Args:
            logits: of the tokens of the word, shape (rows, at least `length`, vocabulary).
            labels: whose words those tokens are asked for.
        """
        import torch

        costs = []
        for row, label in enumerate(labels):
            cost = logits.new_zeros(())
            for position, token in enumerate(self.word_tokens[label]):
                scores = logits[row, position]
                among = scores[self.choices(label, position)]
                cost = cost + torch.logsumexp(among, 0) - scores[token]
            costs.append(cost)
        return torch.stack(costs)

    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        scores = self.class_scores(model, rows).cpu().tolist()
        return [
            Answer(self.classes.decide(row, self.offsets), -row[example.label or 0], 1, tuple(row))
            for row, example in zip(scores, rows, strict=True)
        ]

    def class_scores(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        """Log-probabilities of the classes, shape (rows, classes)."""
        import torch

        if self.length == 1:
            logits, _, _ = self.forward.learned_logits(model, rows)
            first = logits.float().view(len(rows), 2, -1)[:, 0]
            return first[:, [word[0] for word in self.word_tokens]].log_softmax(1)
        columns = []
        for label in range(len(self.labels)):
            asked = [self.with_word(row, label) for row in rows]
            logits, _, _ = self.forward.learned_logits(model, asked)
            logits = logits.float().view(len(rows), self.length, -1)
            columns.append(-self.decisions(logits, [label] * len(rows)))
        return torch.stack(columns, 1)

    def with_word(self, row: Example, label: int) -> Example:
        """The row's question followed by a label's word."""
        word = self.word_tokens[label]
        masked = (IGNORED,) * len(row.prompt)
        return replace(row, ids=(*row.prompt, *word), labels=(*masked, *word))

    def recorded(self) -> dict[str, Any]:
        return self.classes.model_dump(mode="json") | {"weights": self.settings.weights}


def learned_tokens(example: Example) -> tuple[int, ...]:
    """The tokens that an example teaches."""
    return tuple(label for label in example.labels if label != IGNORED)


def last_answer_only(example: Example, tokens: int) -> Example:
    """The example with its last `tokens` learned tokens learned, and no earlier turn."""
    places = [place for place, label in enumerate(example.labels) if label != IGNORED][-tokens:]
    labels = [IGNORED] * len(example.labels)
    for place in places:
        labels[place] = example.ids[place]
    return replace(example, labels=tuple(labels))
