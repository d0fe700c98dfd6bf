"""A version in one file: the same on the other side, and nothing but a version can be in it."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass

import pytest

from adaptery.errors import (
    AdapteryError,
    Conflict,
    CorruptFile,
    InvalidAdapter,
    ReferenceNotFound,
    RegistryError,
    UsageError,
)
from adaptery.registry.carry.ustar import END, header
from adaptery.registry.gate.package import CONFIG, WEIGHTS
from adaptery.registry.local import LocalRegistry
from adaptery.types import AdapterRef, canonical_json, sha256_of


def ref(text):
    return AdapterRef.parse(text)


@pytest.fixture
def other(tmp_path):
    return LocalRegistry.open(str(tmp_path / "other"))


@pytest.fixture
def bundled(local, adapter, tmp_path):
    """`support@2` of `local` in a file."""
    for seed in (1, 2):
        local.publish("support", adapter(seed))
    local.bundle(ref("support@2"), tmp_path / "support-2.tar")
    return tmp_path / "support-2.tar"


# What is carried


def test_unbundled_elsewhere_it_is_the_same_version(local, other, bundled):
    here, there = local.resolve(ref("support@2")), other.unbundle(bundled)
    assert (there.name, there.number, there.digest) == ("support", 2, here.digest)
    for file in here.manifest.files:
        carried = other.materialize(there) / file.path
        assert carried.read_bytes() == (local.materialize(here) / file.path).read_bytes()
    assert other.history("support")[0].reason == "unbundled from support@2"


def test_unbundling_twice_is_one_version(other, bundled):
    assert other.unbundle(bundled) == other.unbundle(bundled)
    assert len(other.history("support")) == 1


def test_the_same_version_is_the_same_bytes_whoever_bundles_it(other, bundled, tmp_path):
    version = other.unbundle(bundled)
    other.bundle(ref("support@2"), tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == bundled.read_bytes()
    assert version.digest in bundled.read_text(errors="replace")


def test_every_kind_of_registry_writes_and_reads_them(registry, bundled, tmp_path):
    version = registry.unbundle(bundled)
    assert registry.bundle(ref("support@2"), tmp_path / "again.tar") == version
    assert (tmp_path / "again.tar").read_bytes() == bundled.read_bytes()


def test_other_tools_can_read_it(bundled):
    listed = subprocess.run(["tar", "tf", bundled], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["manifest.json", "bundle.json", CONFIG, WEIGHTS]
    assert listed.stderr == ""
    with tarfile.open(bundled) as archive:
        for member in archive:
            assert (member.mode, member.mtime, member.uid, member.uname) == (0o644, 0, 0, "")
        manifest = archive.extractfile("manifest.json").read()
    assert manifest == canonical_json(json.loads(manifest))


def test_a_bundle_that_is_there_is_kept_unless_forced(local, bundled):
    before = bundled.read_bytes()
    with pytest.raises(UsageError, match=r"support-2\.tar is there already\. Give --force"):
        local.bundle(ref("support@1"), bundled)
    assert bundled.read_bytes() == before
    local.bundle(ref("support@1"), bundled, force=True)
    assert bundled.read_bytes() != before


def test_a_bundle_that_cannot_be_written_leaves_nothing(local, adapter, tmp_path):
    local.publish("support", adapter(1))
    with pytest.raises(RegistryError, match=r"nowhere/x\.tar cannot be written"):
        local.bundle(ref("support"), tmp_path / "nowhere" / "x.tar")
    with pytest.raises(ReferenceNotFound):
        local.bundle(ref("support@9"), tmp_path / "x.tar")
    weights = local.materialize(local.resolve(ref("support"))) / WEIGHTS
    weights.chmod(0o644)
    weights.write_bytes(b"x" + weights.read_bytes()[1:])
    with pytest.raises(CorruptFile):
        local.bundle(ref("support"), tmp_path / "x.tar")
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_a_bundle_has_the_permissions_of_other_files(bundled, tmp_path):
    (tmp_path / "plain").touch()
    assert bundled.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_number_that_is_taken_says_how_to_keep_both(other, adapter, bundled):
    other.publish("support", adapter(7), number=2)
    with pytest.raises(Conflict, match=r"support@2 is already another version.* Use --name"):
        other.unbundle(bundled)
    assert other.unbundle(bundled, "support-theirs").number == 2
    assert other.resolve(ref("support@2")).manifest.seed == 7


def test_a_size_beyond_octal_digits_is_written_as_all_tars_read_it():
    for size in (8**11 - 1, 8**11, 10**15):
        assert tarfile.TarInfo.frombuf(header("x", size), "utf-8", "strict").size == size


# What is refused


@dataclass
class Pieces:
    """A good bundle, taken apart."""

    manifest: dict
    label: dict
    files: dict

    def texts(self):
        return [
            ("manifest.json", canonical_json(self.manifest)),
            ("bundle.json", canonical_json(self.label)),
        ]

    def members(self):
        return [*self.texts(), *self.files.items()]


def archive(members, end=END):
    return b"".join(member(*each) for each in members) + end


def member(name, content):
    return header(name, len(content)) + content + bytes(-len(content) % 512)


def label(pieces, **changes):
    """Change the label and seal it again."""
    pieces.label |= changes
    sealed = [pieces.label[key] for key in ("name", "number", "digest")]
    pieces.label["seal"] = sha256_of(canonical_json(sealed))


def relabelled(pieces):
    """The bundle with a label that fits its manifest."""
    label(pieces, digest=sha256_of(canonical_json(pieces.manifest)))
    return archive(pieces.members())


def manifest_with(change):
    def build(pieces):
        change(pieces.manifest)
        return relabelled(pieces)

    return build


def label_with(**changes):
    def build(pieces):
        label(pieces, **changes)
        return archive(pieces.members())

    return build


def instead(form=tarfile.GNU_FORMAT, name=CONFIG, **attributes):
    """The configuration's member is another kind of member, in whatever format that needs."""

    def build(pieces):
        info = tarfile.TarInfo(name)
        for attribute, value in attributes.items():
            setattr(info, attribute, value)
        content = pieces.files[CONFIG]
        body = content + bytes(-len(content) % 512) if info.size else b""
        rest = member(WEIGHTS, pieces.files[WEIGHTS])
        good = archive(pieces.members())
        strange = archive(pieces.texts(), b"") + info.tobuf(form) + body + rest
        # As long as a good one, so that it is the member itself that is found out.
        return (strange + bytes(max(0, len(good) - len(strange))))[: len(good)]

    return build


def text_instead(name, text):
    """Another text for manifest.json or bundle.json, with the label that fits it."""

    def build(pieces):
        content = text(pieces)
        if name == "manifest.json":
            label(pieces, digest=sha256_of(content))
        return archive([(n, content if n == name else c) for n, c in pieces.members()])

    return build


def patched(find, replacement):
    """The archive with some bytes changed, and header checksums made right again."""

    def build(pieces):
        data = archive(pieces.members())
        at = data.index(find)
        start = at - at % 512
        block = bytearray(data[start : start + 512])
        block[at - start : at - start + len(find)] = replacement
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return data[:start] + bytes(block) + data[start + 512 :]

    return build


def spoiled(pieces):
    weights = bytearray(pieces.files[WEIGHTS])
    weights[-1] ^= 1
    return archive([*pieces.members()[:-1], (WEIGHTS, bytes(weights))])


def hidden(pieces):
    data = bytearray(archive(pieces.members()))
    size = len(pieces.texts()[0][1])
    assert size % 512
    data[512 + size] = 65
    return bytes(data)


def zipped(pieces):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in pieces.members():
            file.writestr(name, content)
    return buffer.getvalue()


def add_file(path):
    return lambda manifest: manifest["files"].append({"path": path, "size": 1, "sha256": "0" * 64})


def huge(manifest):
    manifest["files"][1]["size"] = 10**13


def twice(manifest):
    manifest["files"].append(manifest["files"][0])


def deep(pieces):
    nested = b"[" * 5000 + b"]" * 5000
    return canonical_json(pieces.manifest).replace(
        b'"config":{}', b'"config":{"a":' + nested + b"}"
    )


def with_nan(pieces):
    return canonical_json(pieces.manifest).replace(b'"metrics":{}', b'"metrics":{"f1":NaN}')


def doubled_key(pieces):
    return canonical_json(pieces.manifest).replace(b'"method":', b'"method":"x","method":', 1)


SIZE = b"%011o\0"
LINK = {"type": tarfile.SYMTYPE, "linkname": "../../canary"}
PAX = tarfile.PAX_FORMAT

HOSTILE = {
    # Members that are no plain files
    "a symbolic link": (instead(**LINK), "it has a symbolic link named 'adapter_config.json'"),
    "a hard link": (instead(type=tarfile.LNKTYPE, linkname="/etc/passwd"), "it has a hard link"),
    "a device": (instead(type=tarfile.CHRTYPE, devmajor=1, devminor=3), "it has a device"),
    "a block device": (instead(type=tarfile.BLKTYPE), "it has a device"),
    "a pipe": (instead(type=tarfile.FIFOTYPE), "it has a pipe"),
    "a directory": (instead(type=tarfile.DIRTYPE), "it has a directory"),
    "a sparse file": (instead(type=tarfile.GNUTYPE_SPARSE, size=321), "it has a sparse file"),
    "a contiguous file": (instead(type=tarfile.CONTTYPE, size=321), "it has a contiguous file"),
    "an unknown type": (instead(type=b"Z", size=321), "it has a file of 321 bytes"),
    # Names
    "an absolute path": (instead(name="/tmp/canary", size=321), "named '/tmp/canary'"),
    "a path upwards": (instead(name="../../canary", size=321), r"named '\.\./\.\./canary'"),
    "a path in a directory": (instead(name=f"x/{CONFIG}", size=321), "named 'x/adapter_config"),
    "a GNU long name": (instead(name="a/" * 80 + CONFIG, size=321), "it has a GNU long name"),
    "a GNU long link": (instead(type=tarfile.GNUTYPE_LONGLINK, size=9), "it has a GNU long link"),
    # PAX records that say something else than the header
    "a PAX path": (
        instead(PAX, size=321, pax_headers={"path": "/tmp/canary"}),
        "it has a PAX record named",
    ),
    "a PAX size": (instead(PAX, size=321, pax_headers={"size": "1"}), "it has a PAX record"),
    "a PAX sparse file": (
        instead(PAX, size=321, pax_headers={"GNU.sparse.major": "1"}),
        "it has a PAX record",
    ),
    "a global PAX record": (
        lambda p: tarfile.TarInfo.create_pax_global_header({"path": "x"}) + archive(p.members()),
        r"where the plain file manifest\.json must come, it has a global PAX record",
    ),
    # Order and number of members
    "another order": (
        lambda p: archive([*reversed(p.texts()), *p.files.items()]),
        r"where the plain file manifest\.json must come, it has a file of \d+ bytes named 'bundle",
    ),
    "files in another order": (
        lambda p: archive([*p.texts(), *reversed(p.files.items())]),
        "where the plain file adapter_config.json must come, it has a file",
    ),
    "a member twice": (
        lambda p: archive([*p.members(), (CONFIG, b"{}")]),
        "holds more than the files of one version",
    ),
    "one member more": (
        lambda p: archive([*p.members(), ("evil.py", b"pwn()")]),
        "holds more than the files of one version",
    ),
    "bytes after the end": (lambda p: archive(p.members()) + b"x", "holds more than the files"),
    "no proper end": (
        lambda p: archive(p.members(), b"x" * len(END)),
        "holds more than the files of one version",
    ),
    "a member less": (lambda p: archive(p.members()[:-1]), "is cut off"),
    "cut off in the middle": (lambda p: archive(p.members())[:1300], "is cut off"),
    "cut off by a byte": (lambda p: archive(p.members())[:-1], "is cut off"),
    # Sizes, modes and owners
    "a size too small": (patched(SIZE % 321, SIZE % 320), "it has a file of 320 bytes"),
    "a size too large": (patched(SIZE % 321, SIZE % 8**10), "it has a file of 1073741824 bytes"),
    "a negative size": (patched(SIZE % 321, b"\xff" * 11 + b"\xfe"), "it has a file of -2 bytes"),
    "a manifest of 8 GiB": (
        lambda p: header("manifest.json", 8**11 - 1) + bytes(2048),
        "manifest.json claims 8589934591 bytes; at most 4194304 are read",
    ),
    "a label of 1 MB": (
        lambda p: archive([p.texts()[0], ("bundle.json", bytes(10**6))]),
        "bundle.json claims 1000000 bytes; at most 4096",
    ),
    "a set-uid file": (patched(b"0000644\0", b"0004755\0"), "must come, it has a file"),
    "a wrong checksum": (
        lambda p: header("manifest.json", 9).replace(b"ustar", b"ustaz") + bytes(2048),
        "nothing that a tar archive can have there",
    ),
    # Contents
    "a weight that changed": (spoiled, f"{WEIGHTS} does not have the digest"),
    "bytes hidden in padding": (hidden, "hides bytes after the end of manifest.json"),
    "a manifest of 10 TB": (
        manifest_with(huge),
        "its manifest makes it 1000",
    ),
    "a file twice in the manifest": (manifest_with(twice), "names a file twice"),
    "a path upwards in the manifest": (
        manifest_with(add_file("../canary")),
        r"files\.2\.path: String should match pattern",
    ),
    "code in the manifest": (manifest_with(add_file("evil.py")), "evil.py cannot be part of"),
    "the manifest in itself": (
        manifest_with(add_file("manifest.json")),
        "manifest.json cannot be part of an adapter",
    ),
    "an unknown field": (manifest_with(lambda m: m.update(auto_map=1)), "Extra inputs are not"),
    "a key twice": (text_instead("manifest.json", doubled_key), "'method' comes twice"),
    "a NaN": (text_instead("manifest.json", with_nan), "NaN is not a finite number"),
    "a JSON bomb": (text_instead("manifest.json", deep), "is not valid JSON|nests deeper"),
    "JSON with spaces": (
        text_instead("manifest.json", lambda p: json.dumps(p.manifest).encode()),
        "manifest.json is not canonical JSON",
    ),
    "a label with spaces": (
        text_instead("bundle.json", lambda p: json.dumps(p.label).encode()),
        "bundle.json is not canonical JSON",
    ),
    "a label that is no text": (
        text_instead("bundle.json", lambda p: b"\xff\xfe"),
        "bundle.json is not valid JSON",
    ),
    "another digest": (label_with(digest="0" * 64), "manifest.json does not have the digest"),
    "a name upwards": (label_with(name="../canary"), "'../canary' cannot name an adapter"),
    "a number of 0": (label_with(number=0), "bundle.json: number: Input should be greater"),
    "a number beyond all": (label_with(number=10**9), "bundle.json: number: Input should be less"),
    "another number under the old seal": (
        lambda p: archive([(n, c.replace(b'"number":2', b'"number":3')) for n, c in p.members()]),
        "its seal is broken",
    ),
    "a later format": (label_with(schema_version=2), "bundle.json: schema_version: Input should"),
    "a label that says more": (label_with(alias="live"), "bundle.json: alias: Extra inputs"),
    # Other formats
    "gzip": (lambda p: gzip.compress(archive(p.members())), "gzip data: only a plain tar is read"),
    "a gzip bomb": (lambda p: gzip.compress(bytes(10**7)), "gzip data: only a plain tar is read"),
    "bzip2": (lambda p: bz2.compress(archive(p.members())), "bzip2 data: only a plain tar"),
    "xz": (lambda p: lzma.compress(archive(p.members())), "xz data: only a plain tar"),
    "zstd": (lambda p: b"\x28\xb5\x2f\xfd" + bytes(600), "zstd data: only a plain tar"),
    "zip": (zipped, "zip data: only a plain tar is read"),
    "nothing": (lambda p: b"", "is cut off"),
    "noise": (lambda p: random.Random(1).randbytes(4096), "nothing that a tar archive can have"),
    "a pickle": (lambda p: b"\x80\x04cos\nsystem\n." + bytes(600), "nothing that a tar archive"),
}


@pytest.fixture
def pieces(bundled):
    with tarfile.open(bundled) as file:
        contents = {member.name: file.extractfile(member).read() for member in file}
    manifest = json.loads(contents.pop("manifest.json"))
    label = json.loads(contents.pop("bundle.json"))
    assert len(contents[CONFIG]) == 321
    return Pieces(manifest, label, contents)


def tree(root):
    """Every path under `root` with what it is and holds."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.is_file() and path.read_bytes())
        for path in root.rglob("*")
    }


def test_the_pieces_make_a_good_bundle(pieces, bundled):
    assert archive(pieces.members()) == bundled.read_bytes()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_no_trace(
    kind, pieces, other, tmp_path, monkeypatch
):
    build, message = HOSTILE[kind]
    house = tmp_path / "house"
    for name in ("tmp", "here", "here/deeper"):
        (house / name).mkdir(parents=True)
    for canary in ("canary", "tmp/canary", "here/canary"):
        (house / canary).write_text("alive")
    (house / "hostile.tar").write_bytes(build(pieces))
    monkeypatch.setattr(tempfile, "tempdir", str(house / "tmp"))
    monkeypatch.chdir(house / "here" / "deeper")
    before = tree(house)
    with pytest.raises(AdapteryError, match=message) as refusal:
        other.unbundle(house / "hostile.tar")
    assert isinstance(refusal.value, CorruptFile | InvalidAdapter | UsageError)
    assert re.search(r"[.)`]$", str(refusal.value)), "a sentence ends"
    assert tree(house) == before
    assert list(other.versions()) == []


def test_nothing_but_a_file_is_opened(other, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "pipe"):
        with pytest.raises(UsageError, match="is not a plain file: name a file that"):
            other.unbundle(tmp_path / name)
    with pytest.raises(UsageError, match="missing is not there"):
        other.unbundle(tmp_path / "missing")


def test_every_byte_of_a_bundle_matters(bundled, other):
    good = bundled.read_bytes()
    chosen = random.Random(0).sample(range(len(good)), 500)
    for at in chosen:
        bundled.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with pytest.raises((CorruptFile, UsageError)):
            other.unbundle(bundled)
    assert list(other.versions()) == []
