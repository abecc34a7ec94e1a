"""What a forked child does: receives what it is, enters its sandbox, becomes the server.

The first code that sees anything of a user, and it belongs to that user from its first byte on. On
its socket it says `hello` (the kernel adds its pid as the hub sees it), hears once what to be, joins
its control groups before it reads that, says the pid of the process inside (unless it is that one, then
the zygote says it) and, from there, `inside`, and goes on when it hears an answer, which comes when the hub has seen it in its groups. Standard library
only; everything is imported before the fork.
"""

import atexit
import contextlib
import ctypes
import gc
import io
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Final, NoReturn

from mcphub.spawn.confinement import entering, kernel
from mcphub.spawn.confinement.laying import lay
from mcphub.spawn.confinement.profile import HOME, Profile
from mcphub.spawn.zygote.messages import receive

NAME: Final = "mcphub-sandbox"  # of `confinement.launcher`, which tells it from the server
_FLAGS: Final = frozenset({"-u", "-B", "-I"})
_PR_SET_NAME: Final = 15


def main(fd: int, *, first: bool) -> NoReturn:
    """Be the child on the socket `fd`, maybe the first one of its pid namespace; never returns."""
    sock = socket.socket(fileno=fd)
    try:
        what = _enter(sock, first=first)
    except (OSError, ValueError, KeyError, TypeError) as error:
        with contextlib.suppress(OSError):
            sock.send(f"failed {error}".encode()[:500])
        os._exit(1)
    _become(what)


def _enter(sock: socket.socket, *, first: bool) -> dict[str, Any]:
    """Receive and enter; returns inside with what to run."""
    sock.send(b"hello")
    data, fds = receive(sock, 64, 16)
    if not data:
        os._exit(1)
    spec, home = fds[3], fds[4]
    groups, networks = fds[5 : 5 + int(data)], fds[5 + int(data) :]
    for fd in groups:
        os.write(fd, b"0")
    for number in range(3):
        os.dup2(fds[number], number)
    with open(spec, "rb") as file:
        what = json.loads(file.read())
    profile = Profile.of(what.pop("profile") | {"network": networks[0] if networks else -1})
    # The home is a detached mount: the only thing of the user that is not in the zygote's root.
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.attach(home, HOME)
    entering.enter(
        profile,
        kept=(sock.fileno(),),
        told=lambda pid: _tell(sock, pid),
        waits=False,
        first=first,
    )
    sock.send(b"inside")
    if not sock.recv(1):
        os._exit(1)  # nobody wants it any more
    sock.close()
    return what


def _tell(sock: socket.socket, pid: int) -> None:
    sock.send(f"child {pid}".encode())


def _become(what: dict[str, Any]) -> NoReturn:
    """Be the server, in a session of its own."""
    os.setsid()
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(what["env"])
    time.tzset()
    os.makedirs(what["cwd"], exist_ok=True)
    lay(what["files"], HOME)
    os.chdir(what["cwd"])
    argv: list[str] = what["argv"]
    if argv[0] != what["python"]:
        _execute(argv)
    random.seed()  # the module's generator; those that modules made themselves stay as they are
    _name(what["name"])
    flags, words = _flags(argv[1:])
    unbuffered = "-u" in flags or bool(os.environ.get("PYTHONUNBUFFERED"))
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):
        _standard(number, mode, unbuffered=unbuffered)
    gc.enable()
    os._exit(_run(words))


def _execute(argv: list[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, exec would keep that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(argv[0], argv, dict(os.environ))
    except OSError as error:
        os.write(2, f"{NAME}: the program cannot be executed: {error.strerror}\n".encode())
    os._exit(127)


def _standard(fd: int, mode: str, *, unbuffered: bool) -> None:
    """Open a standard stream anew, as the interpreter does: its objects are of the zygote's pipes."""
    raw = io.FileIO(fd, mode, closefd=False)
    if mode == "r":
        buffered = io.BufferedReader(raw)
    else:
        buffered = raw if unbuffered else io.BufferedWriter(raw)
    stream = io.TextIOWrapper(
        buffered,
        encoding="utf-8",
        errors="backslashreplace" if fd == 2 else "surrogateescape",
        line_buffering=fd == 2,
        write_through=unbuffered,
    )
    name = ("stdin", "stdout", "stderr")[fd]
    stream.mode = mode  # type: ignore[attr-defined]
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _name(name: str) -> None:
    """Show in process lists what runs here; the command line stays the zygote's."""
    text = ctypes.create_string_buffer(name.encode()[:15])
    with contextlib.suppress(OSError):
        kernel.prctl(_PR_SET_NAME, ctypes.addressof(text))


def _flags(words: list[str]) -> tuple[set[str], list[str]]:
    """Return the interpreter's own flags and what follows."""
    count = next((at for at, word in enumerate(words) if word not in _FLAGS), len(words))
    return set(words[:count]), words[count:]


def _run(words: list[str]) -> int:
    """Run a Python command line; returns the exit status."""
    status = 1
    try:
        _python(words)
        status = 0
    except SystemExit as end:
        status = _status(end.code)
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # noqa: BLE001  as the interpreter: whatever it is, it is told
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
        atexit._run_exitfuncs()  # noqa: SLF001
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    return status & 0xFF


def _python(words: list[str]) -> None:
    if words[:1] == ["-c"]:
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        space = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(words[1], "<string>", "exec"), space)  # noqa: S102  what `python -c` is
    elif words[:1] == ["-m"]:
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    sys.stderr.write(f"{code}\n")
    return 1
