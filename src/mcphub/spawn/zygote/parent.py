"""The zygote: imports a package's modules once, then forks one child for every start.

Runs in the package's own interpreter, in a sandbox without network, home or any user's data, as the
root of an own user namespace, so that its children can make their sandboxes. Standard library only.

No byte of a user ever enters it. What it hears on its control socket is one constant byte and a
descriptor; the descriptor is a socket that only the child reads (`child`). What it says: `ready`,
`refused` with the reason, and for a child that ended its pid, here, and its status.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from mcphub.spawn.confinement import kernel
from mcphub.spawn.zygote import child
from mcphub.spawn.zygote.messages import receive
from mcphub.spawn.zygote.reading import Reader

FORK: Final = b"f"
_SET_CHILD_SUBREAPER: Final = 36
_MAX_MESSAGE: Final = 64


@dataclass(frozen=True, slots=True)
class _Nest:
    """What forking needs.

    Attributes:
        control: Socket to the hub.
        wake: Ends of the pipe that tells of children that ended.
        own: Descriptor of the own pid namespace, where each child is made the first process of another
            one; else -1, and a child forks once more, for a user namespace has to come before.
        outer: Pids of children that fork once more and end.
    """

    control: socket.socket
    wake: tuple[int, int]
    own: int
    outer: set[int] = field(default_factory=set)


def main(control_fd: int, modules: str, later: str, *, mapped: bool) -> NoReturn:
    """Import modules, then serve the control socket to its end.

    Args:
        control_fd: The socket.
        modules: Their names, comma-separated, in this order.
        later: Names of modules whose code is only read, likewise.
        mapped: The users' kernel uids are mapped in the own user namespace.
    """
    kernel.close_all_but((control_fd,))
    control = socket.socket(fileno=control_fd)
    hidden = [name for name in sys.modules if name.partition(".")[0] == "mcphub"]
    gc.disable()  # a collection would touch, and so copy, every page that the children share
    for name in filter(None, modules.split(",")):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  any failure of foreign code means: not here
            _say(control, {"op": "refused", "why": f"import of {name}: {type(error).__name__}"})
            os._exit(1)
    reader = Reader()
    for name in filter(None, later.split(",")):
        reader.read(name)
    reader.install()
    for name in hidden:  # a server must not find the hub's code
        sys.modules.pop(name, None)
    kernel.prctl(_SET_CHILD_SUBREAPER, 1)
    why = _unfit(control_fd)
    if why:
        _say(control, {"op": "refused", "why": why})
        os._exit(1)
    gc.freeze()  # no collection before it: every child would copy the pages with holes to fill these
    _say(control, {"op": "ready"})
    _serve(control, mapped=mapped)


def _unfit(control_fd: int) -> str:
    """Return why this process must not fork, or nothing."""
    if len(os.listdir("/proc/self/task")) != 1:
        return "an import started a thread"
    allowed = {0, 1, 2, control_fd}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in allowed and not _is_listing(fd):
            return "an import left a descriptor open"
    return ""


def _is_listing(fd: int) -> bool:
    """Tell whether a descriptor is the one that lists the descriptors, closed by now."""
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def _say(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the hub is gone: the next receive tells
        control.send(json.dumps(message).encode())


def _serve(control: socket.socket, *, mapped: bool) -> NoReturn:
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if mapped else -1
    nest = _Nest(control, (wake_read, wake_write), own)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake_read, select.POLLIN)
    while True:
        poll.poll()
        with contextlib.suppress(BlockingIOError):
            os.read(wake_read, 512)
        _reap(nest)
        try:
            data, fds = receive(control, _MAX_MESSAGE, 1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except OSError:
            data, fds = b"", []
        if not data:
            os._exit(0)  # the hub closed it; the last of the namespace ends with this process
        for fd in fds:
            if data == FORK:
                try:
                    _fork(nest, fd)
                except OSError as error:  # the machine is out of something, and the others live on
                    _tell(fd, f"failed: {error}")
            os.close(fd)


def _fork(nest: _Nest, fd: int) -> None:
    if len(os.listdir("/proc/self/task")) != 1:
        _say(nest.control, {"op": "refused", "why": "a thread appeared"})
        return
    if nest.own >= 0:
        kernel.unshare(kernel.CLONE_NEWPID)
    try:
        pid = os.fork()
        if not pid:
            _be_child(nest, fd)
    finally:
        if nest.own >= 0:
            kernel.setns(nest.own, kernel.CLONE_NEWPID)
    if nest.own >= 0:
        _tell(fd, f"child {pid}")
    else:
        nest.outer.add(pid)


def _be_child(nest: _Nest, fd: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in nest.wake:
            os.close(each)
        nest.control.close()
        child.main(fd, first=nest.own >= 0)
    finally:
        os._exit(1)


def _tell(fd: int, text: str) -> None:
    """Say something to the hub on the socket of a child."""
    with contextlib.suppress(OSError):  # nobody wants that child any more
        os.write(fd, text.encode())


def _reap(nest: _Nest) -> None:
    """Collect children. The outer half of a start is nobody's business; the rest are instances."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid in nest.outer:
            nest.outer.discard(pid)
        else:
            code = os.waitstatus_to_exitcode(status)
            _say(nest.control, {"op": "ended", "pid": pid, "status": code})
