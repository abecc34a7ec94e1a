"""One zygote as the hub sees it: started in a bubblewrap sandbox, asked to fork, told who ended.

The sandbox is that of an instance without network and home, with two differences: its user namespace
maps every user's kernel uid (where the hub is root), and the zygote keeps the rights in it that its
children need to make their own sandboxes. Both hold only inside its namespaces. Every process that
comes from it ends with it, and it ends with the hub.
"""

import asyncio
import contextlib
import json
import os
import re
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

import mcphub
from mcphub.spawn import bubblewrap, cgroups, seccomp
from mcphub.spawn.building import environment, memory_file
from mcphub.spawn.process import ChildProcess, readable, signal_pid, spawn
from mcphub.spawn.spawner import Preload
from mcphub.spawn.staging import Staging
from mcphub.spawn.stderr import StderrBuffer
from mcphub.spawn.zygote.parent import FORK

_log = structlog.get_logger()

NUMBER: Final = 3
"""Owner number of zygotes; users begin at 16."""
MOST_USERS: Final = 1_000_000
_CODE: Final = "/run/mcp/code"
ETC: Final = "/run/mcp/etc"
"""`/etc` without what is mounted below it: in a new user namespace that would be locked together."""
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_READY_S: Final = 60.0
_ANSWER_S: Final = 10.0
_FILES: Final = 65_536
_MAX_MESSAGE: Final = 4096
_MOST_EARLY: Final = 10_000
_CHILD_PID: Final = re.compile(rb'"child-pid": ?(\d+)\D')
# SETFCAP: without it a child without root could not map the uid of its zygote, which is 0 here
_RIGHTS: Final = ("SYS_ADMIN", "SETUID", "SETGID", "SETPCAP", "SETFCAP", "NET_ADMIN")
_BOOT: Final = (
    f"import sys; sys.path.insert(0, '{_CODE}');"
    "from mcphub.spawn.zygote.parent import main; del sys.path[0];"
    "main(int(sys.argv[1]), *sys.argv[2:4], mapped=sys.argv[4] == 'mapped')"
)
# $1 hub pid, $2 open files, $3 descriptor of the staging table or empty, then cgroup files up to `--`.
_SCRIPT: Final = """
read -r _ _ _ parent _ < /proc/self/stat && [ "$parent" = "$1" ] || exit 1
ulimit -c 0 && ulimit -n "$2" || exit 1
table=$3; shift 3
while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift
[ -z "$table" ] || mount -a -T "/proc/self/fd/$table" || exit 1
exec "$@"
"""


@dataclass(slots=True, eq=False)
class Child:
    """A forked start on its way.

    Attributes:
        sock: The hub's end of its socket.
        outer: Host pid of its first process, once it said hello: it stays outside, or is that inside.
        pid: Host pid of the first process inside.
        inner: The same as the zygote counts it.
    """

    sock: socket.socket
    outer: int = 0
    pid: int = 0
    inner: int = 0


def uid_inside(number: int) -> int:
    """Return the uid, in a zygote's user namespace of a root hub, of the owner with this number."""
    return number if number > NUMBER else 2 * MOST_USERS + number


def _uid_map(base: int) -> str:
    """Return the map of a zygote's user namespace: itself as root, every user, the hub's own owners."""
    users = f"{NUMBER + 1} {base + NUMBER + 1} {MOST_USERS}"
    return f"0 {base + NUMBER} 1\n{users}\n{2 * MOST_USERS} {base} {NUMBER}\n"


class ZygoteFailed(Exception):
    """A zygote cannot do its work; the start goes another way.

    Attributes:
        why: For administrators; holds nothing of a user.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Zygote:
    """A running zygote. Made by `start`; on the event loop's main thread.

    Attributes:
        group: Its control groups.
        namespace: Descriptor of its user namespace.
        forks: Children so far.
        children: Pid inside -> told when that process ended, with its exit status.
    """

    def __init__(self, preload: Preload, control: socket.socket, group: cgroups.Group) -> None:
        self.preload = preload
        self.group = group
        self.namespace = -1
        self.forks = 0
        self.children: dict[int, Callable[[int], None]] = {}
        self.process: ChildProcess | None = None
        self.started_at = asyncio.get_running_loop().time()
        self.last_used = self.started_at
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._coming: set[Child] = set()
        self._early: dict[int, int] = {}
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._ready.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.broken = ""
        self._loop.add_reader(control.fileno(), self._on_message)

    @property
    def pid(self) -> int:
        """Host pid of its outermost process."""
        return self.process.pid if self.process is not None else 0

    async def ready(self) -> None:
        """Wait until it has imported everything.

        Raises:
            ZygoteFailed: It will not be.
        """
        try:
            async with asyncio.timeout(_READY_S):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise ZygoteFailed("its imports took too long") from None

    def fork(self) -> Child:
        """Ask for a child.

        Raises:
            ZygoteFailed: The zygote is gone.
        """
        if self.broken:
            raise ZygoteFailed(self.broken)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            with theirs:
                socket.send_fds(self._control, [FORK], [theirs.fileno()])
        except OSError:
            ours.close()
            raise ZygoteFailed("it does not listen") from None
        self.forks += 1
        self.last_used = self._loop.time()
        child = Child(ours)
        self._coming.add(child)
        return child

    @property
    def early(self) -> int:
        """How many ends of children are kept for starts on their way."""
        return len(self._early)

    def watch(self, child: Child, ended: Callable[[int], None]) -> None:
        """Call `ended` with the exit status of a child, also if it has ended already."""
        if child.inner in self._early:
            self._loop.call_soon(ended, self._early.pop(child.inner))
        else:
            self.children[child.inner] = ended
        self._came(child)

    def give_up(self, child: Child) -> None:
        """End a child that did not come up."""
        child.sock.close()
        for pid in (child.pid, child.outer):
            if pid:
                signal_pid(pid, signal.SIGKILL)
        self._came(child)

    def _came(self, child: Child) -> None:
        self._coming.discard(child)
        if not self._coming:  # what is left is of children that were given up
            self._early.clear()

    async def close(self) -> None:
        """End it with everything that came from it. Idempotent."""
        self._break("it was ended")
        if self.process is not None:
            await self.process.stop(0)
        if self.namespace >= 0:
            os.close(self.namespace)
            self.namespace = -1

    def _break(self, why: str) -> None:
        if self.broken:
            return
        self.broken = why
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        if not self._ready.done():
            self._ready.set_exception(ZygoteFailed(why))
        if self.process is not None and not self.process.exited.done():
            signal_pid(self.process.pid, signal.SIGKILL)  # all that came from it ends too
        for ended in self.children.values():
            ended(-signal.SIGKILL)
        self.children.clear()

    def _on_message(self) -> None:
        try:
            data = self._control.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break("it ended")
            return
        try:  # its modules run in it, and may say anything
            message: dict[str, Any] = json.loads(data)
            if message["op"] == "ready":
                if not self._ready.done():
                    self._ready.set_result(None)
            elif message["op"] == "refused":
                self._break(str(message["why"]))
            elif message["op"] == "ended":
                self._ended(int(message["pid"]), int(message["status"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            self._break("it says what no zygote says")

    def _ended(self, pid: int, status: int) -> None:
        """Take that a child has ended."""
        ended = self.children.pop(pid, None)
        if ended is not None:
            ended(status)
        elif self._coming:
            self._early[pid] = status
            if len(self._early) > _MOST_EARLY:
                self._break("it says that more have ended than there were")


@contextlib.contextmanager
def talking() -> Iterator[None]:
    """Talk to a child, or look at it.

    Raises:
        ZygoteFailed: It is gone.
    """
    try:
        yield
    except (ConnectionError, ProcessLookupError):
        raise ZygoteFailed("a child ended early") from None


async def hear(child: Child) -> bytes:
    """Return the next message of a child, and note the pid of who said it.

    Raises:
        ZygoteFailed: It ended or takes too long.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            while True:
                try:
                    with talking():
                        data, said, _, _ = child.sock.recvmsg(600, socket.CMSG_SPACE(12))
                    break
                except BlockingIOError:
                    await readable(child.sock.fileno())
    except TimeoutError:
        raise ZygoteFailed("a child takes too long") from None
    if not data:
        raise ZygoteFailed("a child ended early")
    pid = next(
        (
            int.from_bytes(value[:4], "little")
            for level, kind, value in said
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
        ),
        0,
    )
    if data == b"hello":
        child.outer = pid
    elif data == b"inside":
        child.pid = pid
    elif data.startswith(b"child "):
        child.inner = int(data[6:]) if data[6:].isdigit() else 0
    elif data.startswith(b"failed"):
        raise ZygoteFailed(data.decode(errors="replace"))
    return data


@dataclass(frozen=True, slots=True)
class Ground:
    """What zygotes are started with.

    Attributes:
        state: Directory of the hub for files of the spawner.
        etc: Source of `/etc`.
        uid_base: Kernel uid of an owner = base + number; None where the hub is not root.
        mark: Environment by which the hub's watchdog finds what it left.
    """

    state: Path
    etc: Path
    uid_base: int | None
    mark: dict[str, str]


def start(ground: Ground, preload: Preload, places: Sequence[Path], group: cgroups.Group) -> Zygote:
    """Start a zygote; returns while it still imports.

    Raises:
        Unavailable: The machine is out of something.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    zygote = Zygote(preload, ours, group)
    with contextlib.ExitStack() as fds:
        fds.enter_context(theirs)
        info_read, info_write = os.pipe2(os.O_CLOEXEC)
        block_read, block_write = os.pipe2(os.O_CLOEXEC)
        for fd in (info_write, block_read):
            fds.callback(os.close, fd)
        mounts, table = _mounts(ground, places)
        table_fd = memory_file(fds, table.encode()) if table else None
        seccomp_fd = seccomp.filter_fd(makes_sandboxes=True)
        fds.callback(os.close, seccomp_fd)
        args = _options(mounts, places)
        args += ["--seccomp", str(seccomp_fd), "--info-fd", str(info_write)]
        closing: list[str] = []
        if table_fd is not None:
            os.lseek(
                table_fd, 0, os.SEEK_END
            )  # see `sandboxed`: it is closed without a further option
            closing = ["--args", str(table_fd)]
        if ground.uid_base is not None:
            args += ["--userns-block-fd", str(block_read)]
        args_fd = memory_file(fds, bubblewrap.pack(args))
        command = [preload.python, "-I", "-c", _BOOT]
        command += [str(theirs.fileno()), ",".join(preload.modules), ",".join(preload.later)]
        command.append("own" if ground.uid_base is None else "mapped")
        passed = [theirs.fileno(), info_write, args_fd, seccomp_fd]
        passed += [] if table_fd is None else [table_fd]
        passed += [] if ground.uid_base is None else [block_read]
        zygote.process = spawn(
            [
                *_chain(ground, table_fd, group),
                *("bwrap", *closing, "--args", str(args_fd), "--", *command),
            ],
            env=_ENV | ground.mark,
            cwd="/",
            pass_fds=passed,
            tail=StderrBuffer([]),
            terminate=lambda pid: signal_pid(pid, signal.SIGKILL),
            kill=lambda pid: signal_pid(pid, signal.SIGKILL),
            cleanup=lambda: _removed(group),
        )
    _Maps(zygote, info_read, block_write, ground.uid_base)
    return zygote


async def _removed(group: cgroups.Group) -> None:
    await group.remove()


class _Maps:
    """Hears bubblewrap tell its child; writes the maps of its user namespace, where root must."""

    def __init__(self, zygote: Zygote, info: int, block: int, base: int | None) -> None:
        self._zygote, self._info, self._block, self._base = zygote, info, block, base
        self._text = b""
        self._done = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(info, False)
        self._loop.add_reader(info, self._on_info)

    def _on_info(self) -> None:
        try:
            part = os.read(self._info, 4096)
        except (BlockingIOError, InterruptedError):
            return
        self._text += part
        found = _CHILD_PID.search(self._text)
        if found is not None and not self._done:
            self._done = True
            with contextlib.suppress(OSError):  # it shows: the zygote gets never ready
                self._allow(int(found[1]))
        if not part:
            self._loop.remove_reader(self._info)
            os.close(self._info)
            os.close(self._block)

    def _allow(self, pid: int) -> None:
        if self._base is not None:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text(_uid_map(self._base))
            os.write(self._block, b"x")
        self._zygote.namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def _mounts(ground: Ground, places: Sequence[Path]) -> tuple[bubblewrap.Mounts, str]:
    """Return the sources of what the zygote sees; its children make their overlays themselves."""
    empty = ground.state / "zygote-home"
    empty.mkdir(mode=0o755, exist_ok=True)
    code = Path(mcphub.__file__).parent
    shown = [*places, *([] if code in places else [code])]
    if ground.uid_base is None:
        same = tuple((str(place), str(place)) for place in shown)
        return bubblewrap.Mounts("/usr", str(ground.etc), str(empty), same), ""
    staging = Staging(overlay=False, slots=ground.state / "slots")
    return staging.plan(ground.etc, empty, shown)


def _options(mounts: bubblewrap.Mounts, places: Sequence[Path]) -> list[str]:
    """Return bubblewrap's options of a zygote."""
    code = str(Path(mcphub.__file__).parent)
    shown = {str(place) for place in places}
    # fmt: off
    args = [
        "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-ipc", "--unshare-pid",
        "--unshare-uts", "--unshare-cgroup-try", "--unshare-net", "--die-with-parent",
        "--new-session", "--hostname", "mcp", "--clearenv", "--cap-drop", "ALL",
        "--ro-bind", mounts.usr, "/usr", "--ro-bind", mounts.etc, "/etc",
        "--proc", "/proc", "--dev", "/dev", "--size", "1048576", "--tmpfs", "/tmp",  # noqa: S108
        "--size", "1048576", "--tmpfs", "/dev/shm", "--dir", "/run", "--dir", "/var",  # noqa: S108
    ]
    # fmt: on
    args += ["--ro-bind", mounts.etc, ETC]
    for name in _RIGHTS:
        args += ["--cap-add", f"CAP_{name}"]
    args += bubblewrap.system_directories()
    for source, place in mounts.readable:
        if place == code:
            args += ["--ro-bind", source, f"{_CODE}/mcphub"]
        if place in shown:
            args += ["--ro-bind", source, place]
    args += ["--ro-bind", mounts.home, bubblewrap.HOME, "--remount-ro", "/dev", "--remount-ro", "/"]
    args += ["--chdir", bubblewrap.HOME]
    for name, value in environment({}, bubblewrap.HOME, "/tmp").items():  # noqa: S108
        args += ["--setenv", name, value]
    return args


def _chain(ground: Ground, table_fd: int | None, group: cgroups.Group) -> list[str]:
    """Return everything before bubblewrap, as in `sandboxed`."""
    chain = ["setpriv", "--pdeathsig", "KILL", "--"]
    if ground.uid_base is not None:
        chain += ["unshare", "--mount", "--propagation", "private", "--"]
    table = "" if table_fd is None else str(table_fd)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = str(_FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES))
    chain += ["sh", "-c", _SCRIPT, "mcphub-sandbox", str(os.getpid()), files, table]
    chain += [*group.join_files, "--"]
    if ground.uid_base is not None:
        uid = str(ground.uid_base + NUMBER)
        chain += ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups"]
        chain += ["--pdeathsig", "KILL", "--"]
    return chain
