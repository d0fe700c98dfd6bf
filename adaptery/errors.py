"""Every error that adaptery raises on purpose, and the exit code that the command line gives it.

::

    AdapteryError                        1   anything below; catch this one
    ├── UsageError (ValueError)          2   what was asked for cannot be done as asked
    │   ├── ConfigError                  2   a flag, --set, variable or file holds a bad value
    │   ├── InvalidName                  2   a name, alias or reference breaks the grammar
    │   ├── UnknownName (LookupError)    2   no such method, engine, exporter … (did you mean?)
    │   ├── ReferenceNotFound (Lookup…)  2   no such adapter, version, alias or digest
    │   ├── BaseNotFound                 2   the base model is neither a directory nor on the Hub
    │   ├── BaseMismatch                 2   the adapter was trained on another base model
    │   ├── InvalidAdapter               2   files that are not an adapter we can apply in full
    │   └── AddressInUse                 2   the port is taken
    ├── DataError (ValueError)           3   training or evaluation data that must not be used
    ├── DoesNotFit                       4   more memory or context than there is
    ├── VerificationError                5   something is not what it is claimed to be
    │   ├── CorruptFile                  5   bytes that no longer have their digest
    │   ├── ProbeMismatch                5   an engine does not answer as the trained model did
    │   └── PromotionRefused             5   a `before_promote` hook said no
    ├── RegistryError                    1   the registry could not do it; nothing was changed
    │   ├── Conflict                     1   somebody else was first; look again and retry
    │   └── RemoteError                  1   the Hub, a database or an object store said no
    ├── EngineError                      1   the engine could not finish a request
    │   ├── NotReady                     1   it is still loading, or being restarted
    │   └── Overloaded                   1   too many requests wait already
    ├── PluginError                      1   two plugins claim one name, or one broke its contract
    └── Interrupted                    130   stopped by the user; the message says how to resume
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

_MAX_SHOWN = 120  # characters of a strange value that a message repeats
_MAX_NAMES = 40  # known ones that a message lists


class AdapteryError(Exception):
    """Root of the tree. Its text is one or more full sentences meant for the user."""

    exit_code: ClassVar[int] = 1


class UsageError(AdapteryError, ValueError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class InvalidName(UsageError):
    pass


class UnknownName(UsageError, LookupError):
    """A name that is not among the known ones.

    >>> print(UnknownName("training method", "qlroa", ["lora", "qlora"]))
    There is no training method 'qlroa'. Did you mean 'qlora'? Known: lora, qlora.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(join(f"There is no {kind} {name!r}.", suggest(name, known), hint))


class ReferenceNotFound(UsageError, LookupError):
    pass


class BaseNotFound(UsageError):
    pass


class BaseMismatch(UsageError):
    pass


class InvalidAdapter(UsageError):
    pass


class AddressInUse(UsageError):
    pass


class DataError(AdapteryError, ValueError):
    exit_code = 3


class DoesNotFit(AdapteryError):
    exit_code = 4


class VerificationError(AdapteryError):
    exit_code = 5


class CorruptFile(VerificationError):
    pass


class ProbeMismatch(VerificationError):
    pass


class PromotionRefused(VerificationError):
    pass


class RegistryError(AdapteryError):
    pass


class Conflict(RegistryError):
    pass


class RemoteError(RegistryError):
    pass


class EngineError(AdapteryError):
    pass


class NotReady(EngineError):
    pass


class Overloaded(EngineError):
    pass


class PluginError(AdapteryError):
    pass


class Interrupted(AdapteryError):
    exit_code = 130


def suggest(name: str, known: Iterable[str]) -> str:
    """The way out of a misspelling: the nearest known name and all, or that there is none."""
    names = sorted(known)
    if not names:
        return "There is none yet."
    near = get_close_matches(name, names, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    others = [f"and {len(names) - _MAX_NAMES:,} more"] if len(names) > _MAX_NAMES else []
    return f"{guess}Known: {', '.join([*names[:_MAX_NAMES], *others])}."


def brief(value: object, *, quote: bool = True) -> str:
    """A value that came from outside, as a message may repeat it: quoted, and not at any length."""
    text = repr(value) if quote else repr(value)[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} …"


def join(*sentences: str) -> str:
    """Sentences that are there, in one line."""
    return " ".join(sentence for sentence in sentences if sentence)
