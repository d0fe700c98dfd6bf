"""Versions from one registry to another: what `adapters publish` and `adapters pull` do."""

from adaptery.errors import Conflict
from adaptery.registry.base import Registry
from adaptery.types import AdapterPackage, AdapterRef, Version


def copy_version(
    source: Registry, ref: AdapterRef, target: Registry, name: str | None = None
) -> Version:
    """Publish in `target` what `ref` means in `source`, unchanged and under the same number.

    Args:
        name: what to call it in `target`; what it is called in `source` if None.

    Raises:
        ReferenceNotFound: `ref` means nothing in `source`.
        CorruptFile: a file is not what its manifest says.
        Conflict: `target` holds something else under this name and number.
    """
    version = source.resolve(ref)
    package = AdapterPackage(source.materialize(version), version.manifest)
    try:
        return target.publish(
            name or version.name,
            package,
            number=version.number,
            reason=f"copied from {source.url}/{version}",
        )
    except Conflict as error:
        raise Conflict(
            f"{target.url} does not take {version} of {source.url}: {error} "
            "Use --name to keep it there under another name."
        ) from error
