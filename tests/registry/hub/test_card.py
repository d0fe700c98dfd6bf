"""The model card: whatever a manifest says, it is shown and does nothing."""

import ast
import re
import shlex
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptery.registry.hub.card import model_card
from adaptery.types import BaseIdentity, Manifest, Version

NASTY = st.sampled_from(
    [
        "---",
        "\n---\n",
        "`",
        "``",
        "```",
        "\n```\n",
        "|",
        "\\|",
        "\\",
        "'",
        '"',
        "$(id)",
        "{version}",
        "{",
        "<script>",
        "<!--",
        "](http://evil)",
        "\n# Heading",
        "\r",
        "\u2028",
        "\u202e",
        "\x1b[2J",
        "\x00",
        "org/model",
        " ",
    ]
)
TEXT = st.text(max_size=20) | st.lists(NASTY | st.text(max_size=3)).map("".join)


def card(base_id="org/base", method="lora", revision=None, metrics=None):
    manifest = Manifest(
        files=(),
        base=BaseIdentity(id=base_id, revision=revision, digest="b" * 64),
        method=method,
        metrics=metrics or {},
    )
    now = datetime.now(UTC)
    return model_card("org/support", Version("support", 1, manifest, manifest.digest, now, "ann"))


def without_values(text):
    """The lines of a card, with each code span and metric taken for what it is."""
    return [re.sub(r"`[^`]+`|\b\d[\d.e+-]*\b", "·", line) for line in text.splitlines()]


@settings(deadline=None)
@given(base_id=TEXT, method=TEXT, revision=TEXT, metric=TEXT)
def test_no_text_of_a_manifest_changes_the_shape_of_its_card(base_id, method, revision, metric):
    plain = card("base", "lora", "main" if revision else None, {"a.b": 0.5})
    text = card(base_id, method, revision, {metric or " ": 0.5})
    expected, found = without_values(plain), without_values(text)
    assert len(found) == len(expected)
    code = [i for i, line in enumerate(expected) if "from_pretrained(" in line or "--base" in line]
    for place, (one, other) in enumerate(zip(expected, found, strict=True)):
        if place not in code and not one.startswith("base_model"):
            assert "``" not in found[place].replace("```", "")
            # A metric that is a plain word need not be code.
            assert one == other or re.fullmatch(r"\| [A-Za-z0-9_·-]+ \| · \|", other)


@settings(deadline=None)
@given(base_id=TEXT)
def test_the_snippets_hold_the_base_as_one_word(base_id):
    text = card(base_id)
    shown = "".join(c if c.isprintable() else " " for c in base_id)
    if len(shown) > 200:
        return
    (command,) = re.findall(r"^adapters serve .*$", text, re.MULTILINE)
    assert shlex.split(command) == ["adapters", "serve", "--base", shown]
    snippet = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]
    call = ast.parse(snippet).body[2].value
    assert ast.literal_eval(call.args[0]) == shown


@settings(deadline=None)
@given(base_id=TEXT)
def test_the_metadata_is_yaml_that_says_nothing_else(base_id):
    metadata = yaml.safe_load(card(base_id, revision="main").split("---\n")[1])
    assert metadata.pop("base_model", base_id) == base_id
    assert metadata == {"library_name": "peft", "tags": ["adaptery", "lora"]}


@pytest.mark.parametrize("base_id", ["a--b/c", "org/", "/x", "../x", "a/b/c", "оrg/x", "org/x y"])
def test_a_base_that_the_hub_would_refuse_is_not_linked(base_id):
    metadata = yaml.safe_load(card(base_id, revision="main").split("---\n")[1])
    assert "base_model" not in metadata
