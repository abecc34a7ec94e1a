"""Throw-away server processes that never outlive the program that started them.

A guardian process stands between: it holds the read end of a pipe of ours. When that pipe closes,
however we died, it stops the server and removes its data. (A parent-death signal would do so too
early: it fires when the *thread* that started the server ends.) Used by `postgres`,
`mariadb` and `redis`.

This file is also the guardian's program, and imports nothing of the project for that reason.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_START_S = 60.0
_STOP_S = 20.0


class NotInstalled(RuntimeError):
    """A server that the caller needs is not on this machine; the text says what to install."""


class DidNotStart(RuntimeError):
    """The server ended or never got ready; the text holds the end of its log."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def data_directory(tmp: Path, account: str) -> Iterator[Path]:
    """Yield a private directory that the server's account can use; removed at the end.

    Root's servers run as `account`, which cannot pass through a private `tmp` of root's; theirs is
    made in the system's temporary directory instead.
    """
    base = Path(tempfile.mkdtemp(prefix="mcphub-server-", dir=None if os.geteuid() == 0 else tmp))
    try:
        if os.geteuid() == 0:
            shutil.chown(base, account, pwd.getpwnam(account).pw_gid)
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def private_file(path: Path, text: str, account: str) -> Path:
    """Write a file that only `account` (and root) can read; return its path."""
    path.touch(mode=0o600)
    if os.geteuid() == 0:
        shutil.chown(path, account, pwd.getpwnam(account).pw_gid)
    path.write_text(text)
    return path


def identity(account: str) -> dict[str, Any]:
    """Return the arguments that make `subprocess` run as `account` when we are root."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(account)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def run(argv: Sequence[str], account: str, base: Path, stdin: str = "") -> None:
    """Run a preparing command to its end as `account`.

    Raises:
        DidNotStart: It failed.
    """
    done = subprocess.run(
        argv,
        input=stdin,
        cwd=base,
        env=_environment(base),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **identity(account),
    )
    if done.returncode:
        raise DidNotStart(f"{Path(argv[0]).name} failed: {(done.stdout + done.stderr)[-2000:]}")


@contextlib.contextmanager
def serving(
    argv: Sequence[str], account: str, base: Path, *, ready: str, stop: signal.Signals
) -> Iterator[None]:
    """Run a server for the block; entered when `ready` stands in its log.

    Raises:
        DidNotStart: It ended first, or took longer than a minute.
    """
    log = base / "server.log"
    with log.open("wb") as output:
        guardian = subprocess.Popen(
            [sys.executable, "-I", __file__, account, str(int(stop)), str(base), *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=base,
            env=_environment(base),
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for the server
        )
    try:
        _await_ready(guardian, log, ready)
        yield
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(_STOP_S + 5)


def _await_ready(guardian: "subprocess.Popen[bytes]", log: Path, ready: str) -> None:
    deadline = time.monotonic() + _START_S
    while ready not in (text := log.read_text(errors="replace")):
        if guardian.poll() is not None or time.monotonic() > deadline:
            raise DidNotStart(f"the server did not start: {text[-2000:]}")
        time.sleep(0.02)


def _environment(base: Path) -> dict[str, str]:
    return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "LC_ALL": "C", "HOME": str(base)}


def _guard(account: str, stop: str, base: str, argv: Sequence[str]) -> None:
    """Be the guardian: run `argv` until stdin ends, then stop it and remove `base`."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, **identity(account))
    stopping = threading.Event()

    def follow() -> None:
        status = child.wait()
        if stopping.is_set():
            shutil.rmtree(base, ignore_errors=True)
        os._exit(abs(status))

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.buffer.read()
    stopping.set()
    child.send_signal(int(stop))
    time.sleep(_STOP_S)  # the thread ends this process together with the server
    child.kill()
    time.sleep(_STOP_S)


if __name__ == "__main__":
    _guard(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
