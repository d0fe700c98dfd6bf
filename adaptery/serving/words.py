"""Label words as the tokens that a version was trained to answer."""

from adaptery.base_model import LocalBase
from adaptery.classification import Classification, WordTree
from adaptery.errors import UsageError
from adaptery.serving.prompts import render_chat


def word_tree(base: LocalBase, classes: Classification, template: str | None) -> WordTree:
    """The choices between a version's label words.

    Raises:
        UsageError: the template does not put the words where they are asked for.
    """
    words = (classes.words[label] for label in classes.labels)
    return WordTree(tuple(word_tokens(base, classes, template, word) for word in words))


def word_tokens(
    base: LocalBase, classes: Classification, template: str | None, word: str
) -> tuple[int, ...]:
    """A word's tokens as they follow the opened assistant's turn, up to the end token. They need
    not be those of the word by itself: some tokenizers put a space before every text."""
    question = {"role": "user", "content": classes.question(("text",) * classes.texts)}
    asked = render_chat(base, [question], template)
    answer = {"role": "assistant", "content": word}
    whole = render_chat(base, [question, answer], template, ask=False)
    end = base.tokenizer.eos_token_id
    if whole[: len(asked)] != asked or end not in whole[len(asked) :]:
        raise UsageError(
            f"The chat template here does not answer a question with the label word {word!r} and "
            "the end token, so this version cannot be asked for classes."
        )
    return whole[len(asked) : whole.index(end, len(asked))]
