"""Names: whatever is typed, it either is a name that harms nobody, or is refused in a sentence.

The long forms try a thousand times as much: `make torture`.
"""

import string
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adaptery.errors import InvalidName
from adaptery.types import AdapterRef, RemoteRef, check_alias, check_name

LOWER = set(string.ascii_lowercase + string.digits)
NEAR = LOWER | set("._-@:/v\\ AZé１\0\n")

ANY = st.text(st.characters(), max_size=80)
CLOSE = st.text(st.sampled_from(sorted(NEAR)), max_size=70)
NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,62}\Z")
SELECTORS = st.one_of(
    CLOSE,
    st.integers(-1, 10**10).map(str),
    st.integers(0, 10**10).map(lambda number: f"v{number}"),
    st.from_regex(r"\Asha256:[0-9a-fA-F]{0,70}\Z"),
    st.sampled_from(["live", "latest", "canary", "v1", "１", "1１", "sha256:"]),
)
REFS = st.one_of(ANY, CLOSE, NAMES, st.builds("{}@{}".format, st.one_of(NAMES, CLOSE), SELECTORS))
REMOTES = st.one_of(
    ANY, REFS, REFS.map("hf://org/{}".format), st.builds("hf://{}/{}".format, CLOSE, REFS)
)


def parsed(parse, text):
    """What `parse` makes of it; None if it is refused, in one printable sentence."""
    try:
        return parse(text)
    except InvalidName as error:
        sentence = str(error)
        assert sentence.isprintable()
        assert sentence.endswith(".")
        assert len(sentence) < 400
        return None


def require_safe(text, also=""):
    """It can stand in a path, a URL, a tag and a shell as it is, whatever the letters' case."""
    assert text
    assert set(text) <= LOWER | set("._-") | set(also)
    assert text == text.lower() == text.casefold()
    assert ".." not in text
    assert "--" not in text
    assert text[0] in LOWER
    assert not text.endswith((".", "-", "_", ".git"))
    assert quote(text, safe=also) == text


def check_a_name(text):
    name = parsed(check_name, text)
    if name is not None:
        assert name == text
        assert len(name) <= 63
        require_safe(name)


def check_an_alias(text):
    alias = parsed(check_alias, text)
    if alias is not None:
        assert alias == text
        assert len(alias) <= 32
        assert set(alias) <= LOWER | {"-"}
        assert alias[0] in string.ascii_lowercase
        assert AdapterRef.parse(f"a@{alias}") == AdapterRef("a", alias=alias)


def check_a_reference(text):
    ref = parsed(AdapterRef.parse, text)
    if ref is None:
        return
    assert AdapterRef.parse(str(ref)) == ref
    assert str(AdapterRef.parse(str(ref))) == str(ref)
    assert [ref.number, ref.alias, ref.digest].count(None) == 2
    require_safe(ref.name)
    assert set(str(ref)) <= LOWER | set("._-@:")
    assert text.isascii()


def check_a_remote_reference(text):
    remote = parsed(RemoteRef.parse, text)
    if remote is None:
        return
    assert RemoteRef.parse(str(remote)) == remote
    require_safe(remote.ref.name)
    owner = remote.registry.removeprefix("hf://")
    assert set(owner.lower()) <= LOWER | set("._-")
    assert ".." not in owner
    assert len(owner) <= 96


CHECKS = {
    "name": (check_a_name, st.one_of(ANY, CLOSE, NAMES)),
    "alias": (check_an_alias, st.one_of(ANY, CLOSE, st.from_regex(r"\A[a-z][a-z0-9-]{0,33}\Z"))),
    "reference": (check_a_reference, REFS),
    "remote reference": (check_a_remote_reference, REMOTES),
}


@given(text=CHECKS["name"][1])
@example("a.git")
@example("a--b")
@example("nul\0")
def test_any_text_is_a_harmless_name_or_refused(text):
    check_a_name(text)


@given(text=CHECKS["alias"][1])
def test_any_text_is_a_harmless_alias_or_refused(text):
    check_an_alias(text)


@given(text=CHECKS["reference"][1])
@example("a@1１")
@example("a@v01")
def test_any_text_is_a_reference_that_comes_back_or_refused(text):
    check_a_reference(text)


@given(text=CHECKS["remote reference"][1])
@example("hf://a..b/c")
@example("hf://-a/c")
def test_any_text_is_a_remote_reference_that_comes_back_or_refused(text):
    check_a_remote_reference(text)


@given(one=NAMES, other=NAMES)
def test_two_names_are_two_on_any_file_system(one, other):
    one, other = parsed(check_name, one), parsed(check_name, other)
    if one is not None and other is not None and one != other:
        assert one.casefold() != other.casefold()
        assert one.upper() != other.upper()


@given(name=NAMES)
def test_the_hub_takes_every_name_that_we_take(name):
    from huggingface_hub.utils import validate_repo_id

    if parsed(check_name, name) is not None:
        validate_repo_id(f"org/{name}")


@given(owner=st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9_]|[.-][A-Za-z0-9]){0,40}\Z"))
def test_every_owner_that_the_hub_takes_can_be_named(owner):
    assert RemoteRef.parse(f"hf://{owner}/a").registry == f"hf://{owner}"


@pytest.mark.torture
@pytest.mark.parametrize("what", CHECKS)
def test_long_any_text_is_harmless_or_refused(what):
    check, texts = CHECKS[what]

    @settings(max_examples=20_000, deadline=None)
    @given(text=texts)
    def each(text):
        check(text)

    each()
