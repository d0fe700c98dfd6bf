"""A registry that lives in a dict: what the server needs of one, and the means to change it."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptery.errors import ReferenceNotFound
from adaptery.types import (
    LATEST,
    AdapterRef,
    Alias,
    BaseIdentity,
    FileEntry,
    Manifest,
    ProbePrompt,
    Standing,
    Version,
)


@dataclass
class DictRegistry:
    """Versions by name and number, aliases by name; files in directories of their own."""

    root: Path
    base: BaseIdentity
    published: dict[str, list[Version]] = field(default_factory=dict)
    pointers: dict[tuple[str, str], int] = field(default_factory=dict)
    resolved: int = 0
    leased: dict[str, float] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)

    def publish(
        self,
        name: str,
        directory: Path,
        *,
        probe: Sequence[ProbePrompt] = (),
        base: BaseIdentity | None = None,
        template: str | None = None,
        task: Mapping[str, Any] | None = None,
    ) -> Version:
        """The next version of `name`, which becomes live if it is the first."""
        number = len(self.published.get(name, [])) + 1
        files = Path(shutil.copytree(directory, self.root / f"{name}-{number}"))
        (files / "README.md").unlink(missing_ok=True)
        if template is not None:
            (files / "chat_template.jinja").write_text(template)
        manifest = Manifest(
            files=tuple(entry(path) for path in sorted(files.iterdir())),
            base=base or self.base,
            method="lora",
            probe=tuple(probe),
            seed=number,
            config={"task": dict(task)} if task else {},
        )
        version = Version(
            name, number, manifest, manifest.digest, datetime(2025, 1, 1, tzinfo=UTC), "me"
        )
        self.published.setdefault(name, []).append(version)
        self.pointers.setdefault((name, "live"), number)
        return version

    def promote(self, name: str, number: int, alias: str = "live") -> None:
        self.pointers[name, alias] = number

    def resolve(self, ref: AdapterRef) -> Version:
        self.resolved += 1
        versions = self.published.get(ref.name, [])
        number = ref.number or self.pointers.get((ref.name, str(ref.alias)))
        if ref.alias == LATEST:
            number = len(versions)
        for version in versions:
            if version.number == number or (ref.digest and version.digest.startswith(ref.digest)):
                return version
        raise ReferenceNotFound(f"There is no {ref}. Known: {', '.join(self.published)}.")

    def materialize(self, version: Version) -> Path:
        return self.root / f"{version.name}-{version.number}"

    def standing(self, name: str) -> Mapping[int, Standing]:
        return {
            version.number: Standing(tags=self.tags.get(str(version), {}))
            for version in self.versions(name)
        }

    def lease(self, version: Version, holder: str, seconds: float) -> None:
        self.leased[str(version)] = seconds

    def release(self, version: Version, holder: str) -> None:
        self.leased.pop(str(version), None)

    def versions(self, name: str | None = None) -> Sequence[Version]:
        names = sorted(self.published) if name is None else [name]
        return [version for name in names for version in self.published.get(name, [])]

    def aliases(self, name: str | None = None) -> Sequence[Alias]:
        return [
            Alias(adapter, alias, number, 1)
            for (adapter, alias), number in sorted(self.pointers.items())
            if name in (None, adapter)
        ]


def entry(path: Path) -> FileEntry:
    content = path.read_bytes()
    return FileEntry(path=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
