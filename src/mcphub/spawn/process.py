"""One child process on the event loop: pipes, exit by pidfd, orderly stop.

Both spawners build on it. Linux only. It never starts a thread: the parent-death signal belongs to
the thread that spawned, so `spawn` must run on the event loop's own thread, which lives as long as
the hub.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from mcphub.errors import Unavailable, UpstreamFailed
from mcphub.spawn.stderr import StderrBuffer
from mcphub.upstream.pace import Pace

EOF_S: Final = 2.0
"""Seconds that a server has to notice the end of its stdin before it gets TERM; many never look."""
_HELD_S: Final = 0.1
_CHUNK: Final = 64 * 1024
_STDERR_BYTES_PER_S: Final = 4 * 1024 * 1024
_PAUSE_ROUNDS: Final = 50
_DRAIN_ROUNDS: Final = 16
_CHILD_PID: Final = re.compile(rb'"child-pid": ?(\d+)\D')


class ChildProcess:
    """A running process tree; implements `spawner.Process`.

    Life cycle: made by `spawn`; `exited` resolves when the outermost process is gone; `stop` ends the
    tree, closes every descriptor and runs `cleanup` once. Instances that die by themselves still
    need `stop` for their descriptors and cgroup.

    Args:
        pid: The outermost process; who watches it calls `ended`.
        stdin: Write end, owned.
        stdout: Read end, owned.
        stderr_fd: Read end, owned.
        tail: Where stderr goes.
        terminate: Sends TERM to the server itself.
        kill: Sends KILL to the whole tree.
        cleanup: Waits until all is gone and removes what the spawner made for it.
        reached: Says which limit it has reached, for its user.
        page_out: Gives its memory to swap; blocks.
        outermost_serves: The outermost process is the server itself, and is paused with it.
    """

    def __init__(
        self,
        pid: int,
        *,
        stdin: int,
        stdout: int,
        stderr_fd: int,
        tail: StderrBuffer,
        terminate: Callable[[int], None],
        kill: Callable[[int], None],
        cleanup: Callable[[], Awaitable[None]],
        reached: Callable[[], str] = lambda: "",
        page_out: Callable[[], None] = lambda: None,
        outermost_serves: bool = False,
    ) -> None:
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = tail
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        self.proven: asyncio.Future[None] = self._loop.create_future()
        self._stderr_fd = stderr_fd
        self._terminate = terminate
        self._kill = kill
        self._cleanup = cleanup
        self._stopping = asyncio.Lock()
        self._urgent: asyncio.Future[None] = self._loop.create_future()
        self._stopped = False
        self._finishing: asyncio.Task[None] | None = None
        self._reached, self._page_out = reached, page_out
        self._outermost_serves = outermost_serves
        self._why = ""
        self._paused = False
        self._stderr_pace = Pace(_STDERR_BYTES_PER_S)
        self._loop.add_reader(stderr_fd, self._on_stderr)

    def prove(self) -> None:
        """Take the news that the server has answered its opening."""
        if not self.proven.done():
            self.proven.set_result(None)

    def why(self) -> str:
        """Return which limit it has reached; still known when it is gone."""
        if not self._stopped:
            self._why = self._reached()
        return self._why

    async def pause(self) -> None:
        """Stop every process of the tree, those that start meanwhile too."""
        if self._paused or self._stopped:
            return
        self._paused = True  # no await before all are stopped: `resume` comes before or after
        stopped: set[int] = set()
        for _ in range(_PAUSE_ROUNDS):
            new = self._tree() - stopped
            if not new:
                break
            for pid in new:
                signal_pid(pid, signal.SIGSTOP)
            stopped |= new
        if swap_exists():
            await asyncio.to_thread(self._page_out)

    def resume(self) -> None:
        """Continue every process of the tree."""
        if self._paused:
            self._paused = False
            for pid in self._tree():
                signal_pid(pid, signal.SIGCONT)

    def _tree(self) -> set[int]:
        return descendants(self.pid) | ({self.pid} if self._outermost_serves else set())

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the tree: close stdin, wait at most `EOF_S`; TERM, wait `grace_s`; KILL. Idempotent.

        A stop without grace also ends the waiting of one that goes on.
        """
        if grace_s <= 0 and not self._urgent.done():
            self._urgent.set_result(None)
        async with self._stopping:
            if self._finishing is None:
                self.resume()  # else it could not end by itself
                self._close_stdin()
                try:
                    if not await self._gone(min(grace_s, EOF_S)):
                        self._terminate(self.pid)
                        await self._gone(grace_s)
                finally:  # also when the waiting was cancelled
                    if not self.exited.done():  # once reaped, the pid may be somebody else's
                        self._kill(self.pid)
                # once, whoever waits for it: what it closes may be somebody else's afterwards
                self._finishing = self._loop.create_task(
                    self._finish(), name=f"process.end {self.pid}"
                )
            await asyncio.shield(self._finishing)

    async def _finish(self) -> None:
        await self.exited
        self.why()
        self._on_stderr(rounds=_DRAIN_ROUNDS)
        self._close_stderr()
        if self.stdout >= 0:
            self._loop.remove_reader(self.stdout)
            os.close(self.stdout)
            self.stdout = -1
        self._stopped = True
        await self._cleanup()

    async def _gone(self, grace_s: float) -> bool:
        waiting = [self.exited, self._urgent]
        await asyncio.wait(waiting, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        return self.exited.done()

    def _close_stdin(self) -> None:
        if self.stdin >= 0:
            self._loop.remove_writer(self.stdin)
            os.close(self.stdin)
            self.stdin = -1

    def ended(self, status: int) -> None:
        """Take the news that the outermost process is gone and reaped."""
        self._on_stderr(rounds=_DRAIN_ROUNDS)
        if not self.exited.done():
            self.exited.set_result(status)
        self.prove()  # nothing waits for it any more

    def _on_stderr(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            if self._stderr_fd < 0:
                return
            try:
                data = os.read(self._stderr_fd, _CHUNK)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                self._close_stderr()
                return
            self.stderr.feed(data)
            rest = self._stderr_pace.take(len(data))
            if rest:  # a flood waits in the pipe, and its writer with it
                self._loop.remove_reader(self._stderr_fd)
                self._loop.call_later(rest, self._read_on)
                return

    def _read_on(self) -> None:
        if self._stderr_fd >= 0:
            self._loop.add_reader(self._stderr_fd, self._on_stderr)

    def _close_stderr(self) -> None:
        if self._stderr_fd >= 0:
            self._loop.remove_reader(self._stderr_fd)
            os.close(self._stderr_fd)
            self._stderr_fd = -1


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    pass_fds: Sequence[int],
    tail: StderrBuffer,
    terminate: Callable[[int], None],
    kill: Callable[[int], None],
    cleanup: Callable[[], Awaitable[None]],
    reached: Callable[[], str] = lambda: "",
    page_out: Callable[[], None] = lambda: None,
    outermost_serves: bool = False,
) -> ChildProcess:
    """Start `argv` in its own session with three pipes. Call on the event loop's thread.

    Raises:
        UpstreamFailed: The program cannot be executed.
        Unavailable: The machine is out of processes, memory or descriptors.
    """
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe2(os.O_CLOEXEC)
        in_read, in_write, out_read, out_write, err_read, err_write = fds
        for ours in (in_write, out_read, err_read):
            os.set_blocking(ours, False)
        popen = subprocess.Popen(
            argv,
            stdin=in_read,
            stdout=out_write,
            stderr=err_write,
            env=dict(env),
            cwd=cwd,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _cannot_start(error) from None
    for theirs in (in_read, out_write, err_write):
        os.close(theirs)
    process = ChildProcess(
        popen.pid,
        stdin=in_write,
        stdout=out_read,
        stderr_fd=err_read,
        tail=tail,
        terminate=terminate,
        kill=kill,
        cleanup=cleanup,
        reached=reached,
        page_out=page_out,
        outermost_serves=outermost_serves,
    )
    _reap(popen, process)
    return process


def _reap(popen: "subprocess.Popen[bytes]", process: ChildProcess) -> None:
    """Wait for the end of a child of this process and tell."""
    loop = asyncio.get_running_loop()
    pidfd = os.pidfd_open(popen.pid)

    def on_exit() -> None:
        status = popen.poll()
        loop.remove_reader(pidfd)
        if status is None:  # it ended, and a debugger has not let go of it
            loop.call_later(_HELD_S, on_exit)
            return
        os.close(pidfd)
        process.ended(status)

    loop.add_reader(pidfd, on_exit)


def _cannot_start(error: OSError) -> UpstreamFailed | Unavailable:
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError) or (
        error.errno == 8  # ENOEXEC
    ):
        return UpstreamFailed(
            "The server's program cannot be executed.",
            hint="Check `command` of the server: the file must exist and be executable.",
        )
    return Unavailable(
        "The machine cannot start another process now.",
        hint="Raise its limits of processes, memory or open files, or run fewer instances.",
        retry_after_s=5.0,
    )


def children(pid: int) -> list[int]:
    """Return the direct children of a process; empty when it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return [int(word) for word in file.read().split()]
    return []


def descendants(pid: int) -> set[int]:
    """Return all processes below one, by whichever of its threads they were started."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):  # noqa: PTH208  names
                with open(f"/proc/{one}/task/{thread}/children") as file:  # noqa: PTH123
                    new = {int(word) for word in file.read().split()} - found
                found |= new
                waiting += new
    return found


def swap_exists() -> bool:
    """Whether the machine has anywhere to put memory that is not in use."""
    with contextlib.suppress(OSError), open("/proc/swaps") as file:  # noqa: PTH123
        return len(file.readlines()) > 1
    return False


async def readable(fd: int) -> None:
    """Wait until a descriptor has something to read, or its end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)


def signal_pid(pid: int, number: int) -> None:
    """Send a signal; a process that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


class NamespaceInit:
    """The first process of an instance's pid namespace, as bubblewrap tells it (`--info-fd`).

    bubblewrap itself ends as soon as the server has ended; the kernel ends the rest of the namespace
    a moment later, its first process last of all. A bubblewrap that is killed in its first
    milliseconds leaves that process behind, waiting for ever. `end` sees to both.

    Args:
        info: Read end of the pipe; owned.
    """

    def __init__(self, info: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._info = info
        self._text = b""
        self._pidfd = -1
        self._told = asyncio.Event()
        os.set_blocking(info, False)
        self._loop.add_reader(info, self._on_info)

    async def end(self, limit_s: float = 5.0) -> bool:
        """Kill what is left and wait until the namespace has no process; False if it took too long.

        Call it when bubblewrap itself is gone.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._told.wait()
                if self._pidfd >= 0:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                    ended = asyncio.Event()
                    self._loop.add_reader(self._pidfd, ended.set)
                    await ended.wait()
        except TimeoutError:
            return False
        finally:
            self._close_info()
            if self._pidfd >= 0:
                self._loop.remove_reader(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1
        return True

    def _on_info(self) -> None:
        try:
            part = os.read(self._info, _CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        self._text += part
        found = _CHILD_PID.search(self._text)
        if found is not None and not self._told.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(int(found[1]))
            self._told.set()
        if not part:  # not earlier: bubblewrap writes in pieces and would die of SIGPIPE
            self._close_info()
            self._told.set()

    def _close_info(self) -> None:
        if self._info >= 0:
            self._loop.remove_reader(self._info)
            os.close(self._info)
            self._info = -1
