"""What the engine's processes need not import, which is half of what they would otherwise.

transformers imports whatever is installed that some of its parts could use, and torch's compiler
and its tensors across machines, to mark functions that are not called here.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

UNUSED = ("accelerate", "pandas", "peft", "scipy", "sklearn")
COMPILER = "torch._dynamo"
QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


@contextmanager
def loading(*unused: str) -> Iterator[None]:
    """Import and load meanwhile what stays to the end of the process, without these packages.

    The garbage collector would look through all of it again and again: a quarter of the time that
    imports take, and later a tenth of a second in the midst of a step. What the C library has kept
    of memory that was needed for a moment is given back.
    """
    gc.disable()
    try:
        with without(*unused):
            yield
    finally:
        gc.freeze()
        gc.enable()
        if os.name == "posix" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
            trim(0)


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Let imports find these packages not installed meanwhile, but for those loaded before.

    transformers does not warn then that they are missing, which is on purpose.
    """
    warned = os.environ.get(QUIET)
    os.environ[QUIET] = "1"
    absent = [name for name in packages if name not in sys.modules]
    modules = cast(dict[str, object], sys.modules)
    modules.update(dict.fromkeys(absent))  # `import` takes None for what is not there
    try:
        yield
    finally:
        for name in absent:
            if modules.get(name, name) is None:
                del modules[name]
        del os.environ[QUIET]
        if warned is not None:
            os.environ[QUIET] = warned


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let what is imported meanwhile get along without torch's compiler and distributed tensors.

    Its decorators leave functions as they are. Who wants to compile can import it afterwards.
    """
    import torch.distributed

    distributed: Any = torch.distributed
    if COMPILER in sys.modules:
        yield
        return
    finder, available = Passive(), distributed.is_available
    sys.meta_path.insert(0, finder)
    distributed.is_available = lambda: False
    try:
        yield
    finally:
        distributed.is_available = available
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]
        vars(torch).pop(COMPILER.rpartition(".")[2], None)


class StandIn(ModuleType):
    """A module of which everything is a decorator that changes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return leave


class Passive(MetaPathFinder, Loader):
    """Finds stand-ins for the compiler and all its modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a stand-in, if `name` is to have one."""
        mine = name == COMPILER or name.startswith(f"{COMPILER}.")
        return ModuleSpec(name, self, is_package=True) if mine else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


def leave(function: Any = None, *args: object, **options: object) -> Any:
    """`function` itself, whether as a decorator or as what makes one."""
    if callable(function):
        return function
    return leave
