"""What a start of a sandbox is made from, and the two that make it: values and the seam between them.

`sandboxed` prepares an `Order`; a `Builder` turns it into a command. Implementations:
`bubblewrapped` and `confined`. One contract suite and one hostile-probe matrix run on both.
"""

import contextlib
import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from mcphub.spawn import bubblewrap
from mcphub.spawn.egress.client import Network
from mcphub.spawn.spawner import Launch
from mcphub.vault.secret import Secret

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
OUTER_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
"""Environment of every program of the host on the way to a server; holds nothing of anybody."""


class Layer(StrEnum):
    """A part of the sandbox that a machine may lack; tests forbid them one by one."""

    BUBBLEWRAP = "bubblewrap"
    NAMESPACES = "namespaces"
    CGROUPS = "cgroups"
    OVERLAY = "overlay"
    LANDLOCK = "landlock"


@dataclass(frozen=True, slots=True)
class Order:
    """One start.

    Attributes:
        launch: What shall run.
        places: What is shown read-only besides the system directories, parents first.
        network: Network of the instance.
        join_files: Files to write `0` to, which joins control groups.
        processes: Most processes, where no control group limits them; else None.
        uid: Kernel uid to become, or None.
        info_fd: Where the pid of the first process inside is told.
    """

    launch: Launch
    places: list[Path]
    network: Network
    join_files: list[str]
    processes: int | None
    uid: int | None
    info_fd: int

    @property
    def files(self) -> int:
        """Most open files of one process: as in its settings, but never more than the hub's own hard limit."""
        return _within(resource.RLIMIT_NOFILE, self.launch.sandbox.files)

    @property
    def file_bytes(self) -> int:
        """Size of the largest file: that of a whole home, but never more than the hub's own hard limit."""
        return _within(resource.RLIMIT_FSIZE, self.launch.sandbox.home_mb * 2**20)

    @property
    def most_processes(self) -> int | None:
        """Most processes, where no control group limits them, and never more than the hub's own hard limit."""
        if self.processes is None:
            return None
        return _within(resource.RLIMIT_NPROC, self.processes)


def _within(limit: int, wanted: int) -> int:
    """Return what may be set of a limit: one that the hub itself has can be lowered only."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


@dataclass(frozen=True, slots=True)
class Start:
    """A command of the host that ends in the server.

    Attributes:
        argv: The command; no secret is in it.
        passed: Descriptors that it inherits.
    """

    argv: list[str]
    passed: list[int]


class Builder(Protocol):
    """Makes the command that builds one kind of sandbox."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names by which its programs begin their lines on stderr."""
        ...

    @property
    def namespaces(self) -> bool:
        """Whether its sandboxes have namespaces and an own root."""
        ...

    def home_inside(self, home: Path) -> str:
        """Return the path at which an instance sees its home."""
        ...

    def build(self, order: Order, fds: contextlib.ExitStack) -> Start:
        """Return the command; descriptors made for it are closed with `fds`.

        Raises:
            HubError: The order cannot be carried out.
        """
        ...

    def server_of(self, pid: int) -> list[int]:
        """Return the server's own processes below the outermost one, for TERM."""
        ...


def environment(given: Mapping[str, str | Secret], home: str, tmp: str) -> dict[str, str]:
    """Return the complete environment of a server, revealed; defaults give way to what is set."""
    defaults = {
        "HOME": home,
        "PATH": PATH,
        "TMPDIR": tmp,
        "USER": bubblewrap.USER,
        "LOGNAME": bubblewrap.USER,
        "LANG": "C.UTF-8",
    }
    plain = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in given.items()
    }
    return defaults | plain


def owned(fds: contextlib.ExitStack, fd: int) -> int:
    """Close `fd` with `fds`; returns it."""
    fds.callback(os.close, fd)
    return fd


def memory_file(fds: contextlib.ExitStack, content: bytes) -> int:
    """Return a descriptor from which `content` is read once."""
    fd = owned(fds, os.memfd_create("mcphub", os.MFD_CLOEXEC))
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
