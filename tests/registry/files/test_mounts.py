"""Where SQLite is safe, told from what is mounted and from whether locks hold."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from adaptery.errors import RegistryError
from adaptery.registry.files import mounts
from adaptery.registry.files.mounts import file_system, locks_hold, refuse_unsafe

# As in /proc/self/mountinfo, with a space in a name, a mount over a mount, and optional fields.
MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:50 /export /mnt/team rw,relatime shared:7 master:1 - nfs4 filer:/export rw,vers=4.2
41 27 0:51 / /mnt/team\040two rw,relatime - cifs //filer/share rw
42 27 0:52 / /mnt/team/fast rw,relatime - tmpfs tmpfs rw
43 27 0:53 / /home/ada/cloud rw,nosuid - fuse.sshfs ada@host: rw
44 27 254:1 / /over rw - ext4 /dev/vdb rw
45 44 0:54 / /over rw - nfs filer:/over rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/work/registry", "ext4"),
        ("/mnt/team", "nfs4"),
        ("/mnt/team/registry", "nfs4"),
        ("/mnt/teamwork", "ext4"),
        ("/mnt/team two/registry", "cifs"),
        ("/mnt/team/fast/registry", "tmpfs"),
        ("/home/ada/cloud/x", "fuse.sshfs"),
        ("/over/registry", "nfs"),
    ],
)
def test_a_path_is_on_the_file_system_that_is_mounted_nearest_above_it(path, kind):
    assert file_system(path, MOUNTS) == kind


def test_where_nothing_is_known_of_mounts_nothing_is_claimed():
    assert file_system("/work", "") is None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs"])
def test_a_network_file_system_is_refused_and_postgresql_named(kind, tmp_path, monkeypatch):
    # No disk is under /dev/shm, as none is under a network file system's directory.
    table = tmp_path / "mountinfo"
    table.write_text(f"{MOUNTS}99 27 0:99 / /dev/shm rw - {kind} filer:/x rw\n")
    monkeypatch.setattr(mounts, "_MOUNTS", table)
    with pytest.raises(RegistryError, match=rf"/dev/shm .*\({kind}\).* use PostgreSQL"):
        refuse_unsafe(Path("/dev/shm"))


def test_this_machines_own_directories_are_accepted(tmp_path):
    refuse_unsafe(tmp_path)
    refuse_unsafe(Path("/dev/shm"))
    assert list(tmp_path.iterdir()) == []


def test_who_may_not_write_has_no_lock_to_try():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        directory = Path(name)
        directory.chmod(0o555)
        with unprivileged():
            with pytest.raises(PermissionError):
                (directory / "x").touch()
            assert locks_hold(directory)


@contextmanager
def unprivileged():
    """As a user to whom root's restrictions apply, if we are root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


# What some network file systems do: a lock is always granted, or there are none.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static int answer(const char *name, int fd, int command, void *argument) {
    switch (command) {
    case F_SETLK: case F_SETLKW: case F_OFD_SETLK: case F_OFD_SETLKW:
        if (strcmp(getenv("LOCKS"), "stubbed") == 0) return 0;
        errno = ENOLCK;
        return -1;
    }
    int (*real)(int, int, ...) = dlsym(RTLD_NEXT, name);
    return real(fd, command, argument);
}

#define WRAP(name) int name(int fd, int command, ...) { \
    va_list list; va_start(list, command); \
    void *argument = va_arg(list, void *); va_end(list); \
    return answer(#name, fd, command, argument); }
WRAP(fcntl)
WRAP(fcntl64)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    """A library that takes the locks away from a program that it is loaded into."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("This test needs a C compiler. As .ci/run does: apt-get install gcc libc6-dev")
    directory = tmp_path_factory.mktemp("shim")
    source, library = directory / "locks.c", directory / "locks.so"
    source.write_text(SHIM)
    command = [compiler, "-w", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.mark.parametrize("locks", ["stubbed", "none"])
@pytest.mark.parametrize("there", [True, False], ids=["opened", "made"])
def test_a_directory_where_locks_do_nothing_is_refused(shim, tmp_path, locks, there):
    program = (
        "import sys; from adaptery.registry.local import LocalRegistry; "
        "print(LocalRegistry.open(sys.argv[1]).init())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "registry")]

    def run(**environment):
        return subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    if there:
        assert run().stdout == "True\n"
    refused = run(LD_PRELOAD=str(shim), LOCKS=locks)
    assert "RegistryError: File locks on" in refused.stderr, refused.stderr
    assert "PostgreSQL" in refused.stderr
    assert (tmp_path / "registry" / "catalogue.sqlite3").exists() == there
