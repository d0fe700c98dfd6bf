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

from adaptery.classification import Classification, Fork, WordTree
from adaptery.errors import DataError
from adaptery.trainers.audit import check_label_words
from adaptery.trainers.config import TaskConfig
from adaptery.trainers.data.rows import Conversation, Labelled, Message, Row
from adaptery.trainers.encoding import IGNORED, Encoder, Example
from adaptery.trainers.tasks.base import Answer
from adaptery.trainers.tasks.classes import class_numbers
from adaptery.trainers.tasks.classifier import Classifier
from adaptery.trainers.tasks.forward import Forward
from adaptery.trainers.tasks.outputs import only_tokens

if TYPE_CHECKING:
    import torch


class LabelWords(Classifier):
    """A row costs its answer, and the decision among classes in it times the class' weight."""

    def __init__(
        self,
        forward: Forward,
        settings: TaskConfig,
        classes: Classification,
        weights: Sequence[float],
        offsets: Sequence[float] = (),
    ) -> None:
        """Raises `DataError` if label words cannot be told apart fairly."""
        super().__init__(forward, settings, classes, weights, offsets)
        self.encoder = Encoder(forward.tokenizer)
        tokens = {label: self.tokens_of(classes.words[label]) for label in self.labels}
        check_label_words(classes.words, tokens, self.tokens_of)
        self.tree = WordTree(tuple(tokens.values()))
        self.length = len(self.tree.words[0])  # in tokens, of every label word

    def tokens_of(self, word: str) -> tuple[int, ...]:
        """A word's tokens, as they follow the opened assistant's turn."""
        asked = Message("user", self.classes.question(("text",) * self.classes.texts))
        chat = Conversation((asked, Message("assistant", word)), "task.words")
        return learned_tokens(self.encoder.encode(chat))[:-1]

    def chat(self, row: Row, label: int) -> Conversation:
        """The row as a conversation that ends with the word of its class."""
        word = Message("assistant", self.classes.words[self.labels[label]])
        if isinstance(row, Labelled):
            asked = self.classes.messages(row.texts)
            before = tuple(Message(m["role"], m["content"]) for m in asked)
        else:
            assert isinstance(row, Conversation)  # class_numbers has refused the others
            before = row.prompt
        return Conversation((*before, word), row.origin)

    def encode(
        self, rows: Sequence[Row], advance: Callable[[int], None] = lambda rows: None
    ) -> list[Example]:
        numbers = class_numbers(self.classes, rows)
        chats = [self.chat(row, label) for row, label in zip(rows, numbers, strict=True)]
        examples = self.encoder.encode_all(chats, advance)
        return [
            self.last_answer_only(replace(example, label=label))
            for example, label in zip(examples, numbers, strict=True)
        ]

    def last_answer_only(self, example: Example) -> Example:
        """The example with its label word and the end learned, and no earlier turn."""
        end = len(example.prompt) + self.length + 1
        learned = example.ids[len(example.prompt) : end]
        word = self.tree.words[example.label or 0]
        if learned[:-1] != word:
            raise DataError(
                f"{example.origin}: the label word becomes the tokens {list(learned[:-1])} here "
                f"and {list(word)} elsewhere. Choose another with task.words."
            )
        masked = (IGNORED,) * len(example.prompt), (IGNORED,) * (len(example.ids) - end)
        return replace(example, labels=(*masked[0], *learned, *masked[1]))

    def loss(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        import torch

        logits, tokens, _ = self.forward.learned_logits(model, rows)
        logits = logits.float()
        whole = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
        labels = torch.tensor([row.label for row in rows], device=logits.device)
        decisions = self.decisions(logits.view(len(rows), self.length + 1, -1), labels)
        weights = torch.tensor(self.weights, device=logits.device)[labels]
        return whole.sum() + ((weights - 1) * decisions).sum()

    def decisions(self, logits: "torch.Tensor", labels: "torch.Tensor") -> "torch.Tensor":
        """What each row's class costs among the classes (nats), shape (rows,).

        Args:
            logits: of the tokens of the row's label word, (rows, at least `length`, vocabulary).
            labels: the rows' classes, (rows,).
        """
        tokens, rivals, chosen = (table.to(logits.device) for table in self.tables)
        scores = logits[:, : self.length, tokens]
        among = scores.masked_fill(~rivals[labels], float("-inf")).logsumexp(-1)
        own = scores.gather(-1, chosen[labels][..., None])[..., 0]
        return (among - own).sum(1)

    @cached_property
    def tables(self) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """All tokens of label words; for each label and place which of them go on there from what
        the word began with, (labels, length, tokens), and which is its own, (labels, length)."""
        import torch

        words = self.tree.words
        tokens = sorted({token for word in words for token in word})
        rivals = torch.zeros(len(words), self.length, len(tokens), dtype=torch.bool)
        for label, word in enumerate(words):
            for other in words:
                for place in range(self.length):
                    if other[:place] == word[:place]:
                        rivals[label, place, tokens.index(other[place])] = True
        chosen = torch.tensor([[tokens.index(token) for token in word] for word in words])
        return torch.tensor(tokens), rivals, chosen

    def answers(self, model: Any, rows: Sequence[Example], generate: int) -> list[Answer]:
        scores = self.class_scores(model, rows).cpu().tolist()
        return [
            Answer(self.classes.decide(row, self.offsets), -row[example.label or 0], 1, tuple(row))
            for row, example in zip(scores, rows, strict=True)
        ]

    def class_scores(self, model: Any, rows: Sequence[Example]) -> "torch.Tensor":
        """Log-probabilities of the classes, shape (rows, classes)."""
        import torch

        choices = [self.choices(model, rows, fork) for fork in self.tree.forks]
        columns = [sum(choices[fork][:, token] for fork, token in way) for way in self.tree.ways]
        return torch.stack(columns, 1)

    def choices(self, model: Any, rows: Sequence[Example], fork: Fork) -> "torch.Tensor":
        """Log-probabilities of a fork's tokens among themselves, shape (rows, tokens)."""
        asked = [at_fork(row, fork) for row in rows]
        with only_tokens(model, fork.tokens) as columns:
            logits, _, _ = self.forward.learned_logits(model, asked)
        return logits[:, columns].float().log_softmax(1)


def at_fork(row: Example, fork: Fork) -> Example:
    """The row's question and the beginning of label words; what follows is what is learned."""
    before = (*row.prompt, *fork.begun)
    labels = ((IGNORED,) * len(before)) + fork.tokens[:1]
    return replace(row, ids=(*before, fork.tokens[0]), labels=labels)


def learned_tokens(example: Example) -> tuple[int, ...]:
    """The tokens that an example teaches."""
    return tuple(label for label in example.labels if label != IGNORED)
