"""A model name → an immutable version, once per request.

The registry is asked each time, so a promotion or rollback by another process counts from the
next request on.
"""

import asyncio

from adaptery.base_model import LocalBase
from adaptery.errors import InvalidName, ReferenceNotFound, UsageError, join, suggest
from adaptery.types import AdapterRef, Version, VersionSource


class Resolver:
    """Knows which names the base has, and asks the registry for all others."""

    def __init__(self, source: VersionSource, base: LocalBase, base_name: str) -> None:
        self._source = source
        self._base = base
        self.base_name = base_name

    async def resolve(self, model: str) -> Version | None:
        """The version that `model` means now; None if it is the base itself.

        Raises:
            ReferenceNotFound: there is no such model; the message names those there are.
            BaseMismatch: the version is of another base.
            UsageError: the name is the base's and an adapter's at once.
        """
        return await asyncio.to_thread(self._resolve, model)

    def _resolve(self, model: str) -> Version | None:
        if model == self.base_name:
            self._require_unambiguous(model)
            return None
        try:
            version = self._source.resolve(AdapterRef.parse(model))
        except InvalidName as error:
            known = suggest(model, self.names())
            raise ReferenceNotFound(join(f"There is no model {model!r}.", known)) from error
        except ReferenceNotFound as error:
            hint = f"The base answers to {self.base_name!r}."
            raise ReferenceNotFound(join(str(error), hint)) from error
        self._base.require(version.manifest, str(version))
        return version

    def _require_unambiguous(self, model: str) -> None:
        try:
            self._source.resolve(AdapterRef.parse(model))
        except (InvalidName, ReferenceNotFound):
            return
        raise UsageError(
            f"{model!r} is the name of the base and of an adapter. Ask for the adapter as "
            f"'{model}@live', or start the server with another --served-name."
        )

    def names(self) -> list[str]:
        """Every model that can be asked for: the base, adapters, aliases and versions."""
        return [self.base_name, *(str(ref) for ref, _ in self.references())]

    def references(self) -> list[tuple[AdapterRef, Version]]:
        """The aliases of this base's adapters and then their versions, each by adapter."""
        mine = {
            (version.name, version.number): version
            for version in self._source.versions()
            if version.manifest.base.digest == self._base.identity.digest
        }
        aliases = [
            (AdapterRef(alias.adapter, alias=alias.name), mine[alias.adapter, alias.number])
            for alias in self._source.aliases()
            if (alias.adapter, alias.number) in mine
        ]
        numbers = [(AdapterRef(name, number), version) for (name, number), version in mine.items()]
        return sorted(aliases, key=by_name) + numbers


def by_name(pair: tuple[AdapterRef, Version]) -> str:
    """Sort key: the adapter."""
    return pair[0].name
