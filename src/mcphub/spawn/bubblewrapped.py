"""Builds sandboxes with bubblewrap.

One start is a chain of small programs that replace each other by exec; what stays is bubblewrap's
pair of processes and the server. As root:

    setpriv --pdeathsig > unshare --mount > sh (join cgroups, staging mounts) > nsenter --net >
    setpriv (the user's kernel uid) > bwrap > server

Unprivileged without staging and uid. The outer programs get no secret: values travel to bubblewrap in
a descriptor. What the profile contains: `bubblewrap`.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from mcphub.spawn import bubblewrap, copies, laid, seccomp
from mcphub.spawn.building import OUTER_ENV, Order, Start, environment, memory_file, owned
from mcphub.spawn.process import children
from mcphub.spawn.staging import Staging

_PROGRAMS: Final = ("bwrap", "setpriv", "unshare", "nsenter", "sh", "mount", "prlimit")
_BLOCK: Final = 512
_SHELL: Final = "mcphub-sandbox"  # what the script calls itself: a server may be a script of `sh`
# $1 hub pid, $2 open files, $3 largest file in 512 bytes, $4 descriptor of the staging table or empty, then cgroup files up to
# `--`, then the rest of the chain. Dying with the hub is armed before; a hub that died even earlier
# shows as another parent.
_SCRIPT: Final = """
read -r _ _ _ parent _ < /proc/self/stat && [ "$parent" = "$1" ] || exit 1
ulimit -c 0 && ulimit -n "$2" && ulimit -f "$3" || exit 1
table=$4; shift 4
while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift
[ -z "$table" ] || mount -a -T "/proc/self/fd/$table" || exit 1
exec "$@"
"""


def missing() -> list[str]:
    """Return the programs that this machine lacks."""
    return [name for name in _PROGRAMS if shutil.which(name, path=OUTER_ENV["PATH"]) is None]


class Bubblewrapped:
    """Implements `building.Builder`.

    Args:
        etc: The instances' `/etc` (`bubblewrap.write_etc`).
        staging: Of a root hub; None shows everything as it is.
    """

    namespaces = True
    speakers = (_SHELL, *(name for name in _PROGRAMS if name != "sh"))

    def __init__(self, etc: Path, staging: Staging | None) -> None:
        self._etc = etc
        self._staging = staging

    def home_inside(self, home: Path) -> str:
        """Return the same place for every instance."""
        del home
        return bubblewrap.HOME

    def server_of(self, pid: int) -> list[int]:
        """Return the children of the sandbox's init, which ignores TERM itself."""
        return [server for init in children(pid) for server in children(init)]

    def build(self, order: Order, fds: contextlib.ExitStack) -> Start:
        """Return the chain."""
        launch = order.launch
        files = laid.plain(launch)
        command, script = bubblewrap.command(
            launch.argv,
            most_processes=order.most_processes,
            before=laid.script(files, bubblewrap.HOME),
        )
        mounts, table = self._mounts(order)
        seccomp_fd = owned(fds, seccomp.filter_fd())
        script_fd = None if script is None else memory_file(fds, script)
        file_fds = {below: memory_file(fds, text.encode()) for below, text in files.items()}
        args = bubblewrap.options(
            mounts,
            env=environment(launch.env, bubblewrap.HOME, "/tmp"),  # noqa: S108  inside
            cwd=launch.cwd,
            tmp_mb=launch.sandbox.tmp_mb,
            own_network=order.network.own,
            seccomp_fd=seccomp_fd,
            script_fd=script_fd,
            files=None if launch.files is None else file_fds,
        )
        closing: list[str] = []
        table_fd = None if not table else memory_file(fds, table.encode())
        if table_fd is not None:
            # `mount` opens it anew and reads all; bubblewrap finds the shared offset at the end,
            # so this adds no option: it is how the descriptor gets closed before the server.
            os.lseek(table_fd, 0, os.SEEK_END)
            closing = ["--args", str(table_fd)]
        args += ["--info-fd", str(order.info_fd)]
        args_fd = memory_file(fds, bubblewrap.pack(args))
        passed = (seccomp_fd, script_fd, table_fd, order.info_fd, args_fd, *file_fds.values())
        chain = self._chain(order, table_fd)
        return Start(
            [*chain, *("bwrap", *closing, "--args", str(args_fd), "--", *command)],
            [fd for fd in passed if fd is not None],
        )

    def _mounts(self, order: Order) -> tuple[bubblewrap.Mounts, str]:
        if self._staging is not None:
            return self._staging.plan(
                self._etc, order.launch.home, order.places, copies.of(order.launch)
            )
        same = tuple((str(place), str(place)) for place in order.places)
        own = tuple((str(copy), str(place)) for copy, place in copies.of(order.launch))
        home = str(order.launch.home)
        return bubblewrap.Mounts("/usr", str(self._etc), home, same, own), ""

    def _chain(self, order: Order, table_fd: int | None) -> list[str]:
        """Return everything of the chain before bubblewrap."""
        chain = ["setpriv", "--pdeathsig", "KILL", "--"]
        if order.uid is not None:
            chain += ["unshare", "--mount", "--propagation", "private", "--"]
        table = "" if table_fd is None else str(table_fd)
        files = str(order.files)
        largest = str(order.file_bytes // _BLOCK)
        chain += ["sh", "-c", _SCRIPT, _SHELL, str(os.getpid()), files, largest, table]
        chain += [*order.join_files, "--"]
        chain += order.network.enter(with_user=order.uid is None)
        if order.uid is not None:
            uid = str(order.uid)
            chain += ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
            chain += ["--pdeathsig", "KILL", "--"]
        return chain
