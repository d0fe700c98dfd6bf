"""The corpus of malicious adapters: each kind is refused in words, at once, and leaves no trace."""

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from adaptery.base_model import open_base
from adaptery.errors import AdapteryError, CorruptFile, InvalidAdapter, InvalidName
from adaptery.registry.carry.imports import import_adapter
from adaptery.registry.gate.manifest import read_manifest
from adaptery.registry.gate.package import WEIGHTS, build_files
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterPackage, AdapterRef
from tests.adapters import make_adapter, package
from tests.registry.gate import corpus
from tests.registry.gate.kinds.configs import CONFIGS
from tests.registry.gate.kinds.files import FILES, bomb, torch_file
from tests.registry.gate.kinds.manifests import MANIFESTS
from tests.registry.gate.kinds.names import NAMES
from tests.registry.gate.kinds.tensors import TENSORS

ADAPTERS = [*FILES, *TENSORS, *CONFIGS]
PUBLISHED = [kind for kind in ADAPTERS if kind.publish]
IMPORTED = [kind for kind in ADAPTERS if kind.imports]
SECONDS = 2


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return corpus.small_base(tmp_path_factory.mktemp("corpus") / "base")


class Room:
    """A directory for one attack, and the proof that it left nothing there."""

    def __init__(self, root: Path, base: Path) -> None:
        self.root, self.canary = root, root / "canary"
        self.base = open_base(str(base))
        self.registry = LocalRegistry.open(str(root / "registry"))
        self.adapter = corpus.valid_adapter(root / "attic" / "adapter", base)

    def refuses(self, says, act, *, seconds=SECONDS, error=AdapteryError):
        """`act` ends in a sentence that matches `says`; nothing is there that was not before."""
        before, started = self.tree(), time.process_time()
        with pytest.raises(error, match=rf"(?s){says}") as refused:
            act()
        assert time.process_time() - started < seconds
        assert len(str(refused.value)) < 2000
        assert str(refused.value).isprintable()
        assert self.tree() == before
        assert not self.canary.exists()
        assert not self.registry.versions()

    def tree(self):
        """Every file below the room and the working directory, as it is."""
        return {str(path): describe(path) for path in self.root.rglob("*")}

    def publish(self, name="support"):
        package = corpus.claim(self.adapter, self.base.identity)
        return self.registry.publish(name, package)

    def take(self, name="support", **options):
        return import_adapter(self.registry, str(self.adapter), name, **options)


def describe(path):
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)
    small = path.is_file() and not path.is_symlink() and status.st_size < corpus.SMALL
    return status.st_mode, status.st_size, status.st_mtime_ns, path.read_bytes() if small else b""


@pytest.fixture
def room(tmp_path, base, monkeypatch):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "attic").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "here")
    return Room(tmp_path, base)


def names(kinds):
    return [kind.name.encode("ascii", "backslashreplace").decode()[:60] for kind in kinds]


def test_there_are_as_many_kinds_as_were_promised():
    assert len({kind.name for kind in ADAPTERS}) == len(ADAPTERS) >= 60
    assert all(kind.publish or kind.imports for kind in ADAPTERS)


def test_what_every_kind_begins_with_is_let_through_by_both_ways(room):
    assert str(room.publish()) == "support@1"
    assert str(room.take().version) == "support@2"


@pytest.mark.parametrize("kind", PUBLISHED, ids=names(PUBLISHED))
def test_publishing_it_is_refused(room, kind):
    kind.build(room.adapter, room.canary)
    room.refuses(kind.publish, room.publish)


@pytest.mark.parametrize("kind", IMPORTED, ids=names(IMPORTED))
def test_importing_it_is_refused(room, kind):
    kind.build(room.adapter, room.canary)
    room.refuses(kind.imports, room.take)


@pytest.mark.parametrize("kind", MANIFESTS, ids=names(MANIFESTS))
def test_a_malicious_manifest_is_refused(room, kind):
    kind.build(room.adapter, room.canary)
    data = (room.adapter / "manifest.json").read_bytes()
    room.refuses(kind.publish, lambda: read_manifest(data, "manifest.json"), error=InvalidAdapter)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:40])
def test_a_malicious_name_is_refused_wherever_a_name_is_taken(room, name):
    for act in (
        lambda: room.publish(name),
        lambda: room.take(name),
        lambda: AdapterRef.parse(f"{name}@1"),
        lambda: AdapterRef.parse(f"support@{name}@"),
    ):
        room.refuses("cannot (name an adapter|be an alias)|digest", act, error=InvalidName)


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/b", "..", "", "a\0b", "evil.py"])
def test_a_manifest_built_in_python_cannot_name_another_path_either(room, path):
    good = corpus.claim(room.adapter, room.base.identity)
    evil = good.manifest.files[0].model_copy(update={"path": path})
    manifest = good.manifest.model_copy(update={"files": (*good.manifest.files, evil)})
    package = AdapterPackage(room.adapter, manifest)
    room.refuses("cannot be part of an adapter", lambda: room.registry.publish("support", package))


def test_a_file_named_twice_is_refused(room):
    good = corpus.claim(room.adapter, room.base.identity)
    files = (*good.manifest.files, good.manifest.files[0])
    package = AdapterPackage(room.adapter, good.manifest.model_copy(update={"files": files}))
    room.refuses("names a file twice", lambda: room.registry.publish("support", package))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (bomb, "no pickle that holds tensors alone"),
        (torch_file, "wants to call (posix|os).system, which is refused"),
        (lambda canary: bomb(canary, 0), "no pickle that holds tensors alone"),
        (lambda canary: b"no pickle at all", "no pickle that holds tensors alone"),
        (lambda canary: b"", "cannot be read as tensors"),
    ],
    ids=["pickle", "torch file", "old pickle", "no pickle", "nothing"],
)
def test_a_pickle_that_is_to_be_converted_executes_nothing(room, write, says):
    (room.adapter / WEIGHTS).unlink()
    (room.adapter / "adapter_model.bin").write_bytes(write(room.canary))
    room.refuses(
        f"was not converted, and nothing of it was run: .*{says}",
        lambda: room.take(convert_pickle=True),
    )


def test_the_canary_sings_when_a_pickle_is_opened(room):
    """Else its silence would prove nothing."""
    import pickle

    pickle.loads(bomb(room.canary))
    assert room.canary.exists()


def test_an_import_leaves_pickles_and_code_behind_unopened(room):
    for name in ("training_args.bin", "optimizer.pt", "adapter_model.bin"):
        (room.adapter / name).write_bytes(bomb(room.canary))
    (room.adapter / "modeling.py").write_text(f"open({str(room.canary)!r}, 'w')")
    found = room.take()
    assert found.left_behind == (
        *("adapter_model.bin", "modeling.py", "optimizer.pt", "training_args.bin"),
    )
    assert not room.canary.exists()
    kept = {path.name for path in room.registry.materialize(found.version).iterdir()}
    assert kept == {"adapter_config.json", WEIGHTS}


def test_a_hard_link_is_copied_so_that_the_other_name_changes_nothing(room):
    outside = room.root / "attic" / "outside"
    os.link(room.adapter / WEIGHTS, outside)
    version = room.publish()
    outside.write_bytes(b"something else")
    kept = room.registry.materialize(version) / WEIGHTS
    assert kept.stat().st_size == next(f for f in version.manifest.files if f.path == WEIGHTS).size


def test_a_directory_that_is_none_is_refused(room):
    whole = package(room.adapter)
    for directory in (room.adapter / WEIGHTS, room.root / "nowhere"):
        elsewhere = AdapterPackage(directory, whole.manifest)
        room.refuses(
            "cannot be read|is missing",
            lambda elsewhere=elsewhere: room.registry.publish("support", elsewhere),
            error=(InvalidAdapter, CorruptFile),
        )


def test_files_are_not_built_from_links(tmp_path):
    directory = make_adapter(tmp_path / "a").directory
    (directory / WEIGHTS).rename(tmp_path / "w")
    (directory / WEIGHTS).symlink_to(tmp_path / "w")
    with pytest.raises(InvalidAdapter, match="not a plain file"):
        build_files(directory)
