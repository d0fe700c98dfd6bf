"""The one form of tar archive that a bundle has: plain USTAR, with every byte of a header decided.

There is one way to write a member, so a reader has nothing to interpret: it compares. A link, a
device, a sparse file, a PAX record, another path or a lie about a size is simply not these bytes.
"""

import hashlib
import tarfile
from typing import BinaryIO

from adaptery.errors import CorruptFile, InvalidAdapter, join

BLOCK = 512
END = bytes(2 * BLOCK)

_CHUNK = 1 << 20
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
# fmt: off
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link",
    tarfile.DIRTYPE: "a directory", tarfile.FIFOTYPE: "a pipe",
    tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.GNUTYPE_SPARSE: "a sparse file", tarfile.CONTTYPE: "a contiguous file",
    tarfile.XHDTYPE: "a PAX record", tarfile.XGLTYPE: "a global PAX record",
    tarfile.GNUTYPE_LONGNAME: "a GNU long name", tarfile.GNUTYPE_LONGLINK: "a GNU long link",
}
# fmt: on


def header(name: str, size: int) -> bytes:
    """The header of a plain file: mode 0644, owner 0, time 0. `name` has at most 100 bytes."""
    fields = (
        *(name.encode().ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0"),
        *(_size(size), b"00000000000\0", b" " * 8, tarfile.REGTYPE, bytes(100)),
        *(b"ustar\0", b"00", bytes(64), b"0000000\0", b"0000000\0", bytes(155), bytes(12)),
    )
    block = b"".join(fields)
    assert len(block) == BLOCK, "the names of an adapter's files are short"
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(size: int) -> int:
    """What `size` bytes take in an archive, the header included."""
    return BLOCK + size + -size % BLOCK


class Writer:
    """Writes members one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def text(self, name: str, content: bytes) -> None:
        """A member with this content."""
        self._file.write(header(name, len(content)) + content + bytes(-len(content) % BLOCK))

    def copy(self, name: str, size: int, source: BinaryIO) -> str:
        """A member with the next `size` bytes of `source`; returns their SHA-256.

        Raises:
            CorruptFile: there are fewer.
        """
        self._file.write(header(name, size))
        digest = copy(source, self._file, size, name)
        self._file.write(bytes(-size % BLOCK))
        return digest

    def end(self) -> None:
        """What ends an archive."""
        self._file.write(END)


class Reader:
    """Reads the members that must come next. Errors call the archive `what`.

    Every method raises `InvalidAdapter` if something else comes, and `CorruptFile` if the archive
    ends in the middle of it.
    """

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._file = file
        self._what = what

    def text(self, name: str, limit: int) -> bytes:
        """The content of the member `name`, which is of at most `limit` bytes."""
        block = self._take(BLOCK)
        size = _claimed_size(block)
        self._expect(block, name, size)
        if size > limit:
            raise InvalidAdapter(
                f"{self._what}: {name} claims {size} bytes; at most {limit} are read."
            )
        content = self._take(size)
        self._padding(name, size)
        return content

    def copy(self, name: str, size: int, target: BinaryIO) -> str:
        """Write the member `name`, which has `size` bytes, to `target`; returns their SHA-256."""
        self._expect(self._take(BLOCK), name, size)
        digest = copy(self._file, target, size, f"{self._what}: {name}")
        self._padding(name, size)
        return digest

    def end(self) -> None:
        """Nothing more may come."""
        block = self._take(len(END))
        if block != END:
            raise InvalidAdapter(f"{self._what} holds more than the files of one version.")

    def _expect(self, block: bytes, name: str, size: int) -> None:
        if block != header(name, size):
            raise InvalidAdapter(
                join(
                    f"{self._what} is not a bundle: where the plain file {name} must come, it has "
                    f"{describe(block)}.",
                    "A bundle has exactly one form: make it with `adapters bundle`.",
                )
            )

    def _padding(self, name: str, size: int) -> None:
        if any(self._take(-size % BLOCK)):
            raise InvalidAdapter(f"{self._what} hides bytes after the end of {name}.")

    def _take(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise CorruptFile(f"{self._what} is cut off: it ends where something must follow.")
        return found


def describe(block: bytes) -> str:
    """What a block is that is not the header which must come."""
    for magic, compression in _COMPRESSIONS.items():
        if block.startswith(magic):
            return f"{compression} data: only a plain tar is read, so unpack it first"
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
    except tarfile.HeaderError:
        return "nothing that a tar archive can have there"
    kind = _KINDS.get(member.type, "a file")
    size = f" of {member.size} bytes" if kind == "a file" else ""
    return f"{kind}{size} named {member.name!r}"


def copy(source: BinaryIO, target: BinaryIO, size: int, what: str) -> str:
    """Copy exactly `size` bytes and return their SHA-256. Raises `CorruptFile` if some lack."""
    hashed = hashlib.sha256()
    while size:
        chunk = source.read(min(size, _CHUNK))
        if not chunk:
            raise CorruptFile(f"{what} is cut off: {size} bytes of it are missing.")
        hashed.update(chunk)
        target.write(chunk)
        size -= len(chunk)
    return hashed.hexdigest()


def _size(size: int) -> bytes:
    """Octal digits, as far as they reach (8 GiB); beyond, the binary number that all tars read."""
    return b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")


def _claimed_size(block: bytes) -> int:
    try:
        return max(0, tarfile.TarInfo.frombuf(block, "utf-8", "replace").size)
    except tarfile.HeaderError:
        return 0  # and the comparison says what it is instead
