"""File systems on which SQLite would lose what it has acknowledged, and how to know one.

SQLite's write-ahead log needs memory shared by all its users, and locks that hold. A network file
system gives the first to one machine only, and some give the second in name only: they answer
every request for a lock with success.
"""

import errno
import fcntl
import os
import re
import struct
import tempfile
from pathlib import Path

from adaptery.errors import RegistryError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "glusterfs",
            "gpfs",
            "lustre",
            "ncpfs",
            "nfs",
            "nfs4",
            "orangefs",
            "pvfs2",
            "smb2",
            "smb3",
            "smbfs",
        ),
        *(
            "fuse.beegfs",
            "fuse.blobfuse",
            "fuse.blobfuse2",
            "fuse.ceph",
            "fuse.davfs",
            "fuse.davfs2",
            "fuse.gcsfuse",
            "fuse.glusterfs",
            "fuse.goofys",
            "fuse.juicefs",
            "fuse.mount-s3",
            "fuse.moosefs",
            "fuse.rclone",
            "fuse.s3fs",
            "fuse.seaweedfs",
            "fuse.sshfs",
        ),
    }
)
_WAY_OUT = (
    "Keep the registry on a disk of this machine, or use PostgreSQL, made for many machines: "
    "postgresql://user@host/database?blobs=URL."
)


def refuse_unsafe(directory: Path) -> None:
    """Go on only where SQLite keeps its promises. `directory` must be there.

    Raises:
        RegistryError: `directory` is on a network file system, or locks do not hold there.
    """
    # What has a block device under it is no network file system; that is known without reading.
    on_disk = os.major(directory.stat().st_dev) != 0
    kind = None if on_disk else file_system(os.path.realpath(directory), _mounts())
    if kind in _NETWORK:
        raise RegistryError(
            f"{directory} is on a network file system ({kind}), where SQLite can lose what it has "
            f"acknowledged. {_WAY_OUT}"
        )
    if not locks_hold(directory):
        raise RegistryError(
            f"File locks on {directory} do nothing, so SQLite could lose what it has "
            f"acknowledged. {_WAY_OUT}"
        )


def file_system(path: str, mounts: str) -> str | None:
    """The type of the file system that `path` (absolute, no links) is on; None if unknown.

    `mounts` is a text as in `/proc/self/mountinfo`; where two are mounted on one point, the later
    one hides the other.
    """
    longest, kind = "", None
    for line in mounts.splitlines():
        point = line.split(" ", 5)[4]
        if "\\" in point:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
        if len(point) >= len(longest) and f"{path}/".startswith(f"{point.rstrip('/')}/"):
            longest, kind = point, line.partition(" - ")[2].partition(" ")[0]
    return kind


def locks_hold(directory: Path) -> bool:
    """Whether the second of two who want to lock one byte of a file in `directory` is refused.

    Where the system has no such locks, or this user may not write, there is nothing to find out.
    """
    if not hasattr(fcntl, "F_OFD_SETLK"):
        return True
    try:
        # The file has no name, so that a killed process leaves none behind.
        with (
            tempfile.TemporaryFile(dir=directory, buffering=0) as first,
            open(f"/proc/self/fd/{first.fileno()}", "r+b", buffering=0) as second,
        ):
            return _lock(first.fileno()) and not _lock(second.fileno())
    except PermissionError:
        return True


def _lock(descriptor: int) -> bool:
    """Lock the first byte, for this open file alone. False if it is locked or cannot be."""
    request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOTSUP):
            return False
        raise
    return True


def _mounts() -> str:
    """What is mounted where; nothing on a system that does not say."""
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
