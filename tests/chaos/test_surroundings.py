"""What a hub finds around it: closed descriptors, blocked signals, small limits, read-only files. Two users each time.

`systemd` gives a service such surroundings by its settings (`ProtectSystem=strict`, `LimitFSIZE=`).
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.serving import HubProcess, children_of
from tests.unprivileged import ROOT

CLOSED = 'exec 0<&- 1>&- 2>&-; exec "$@"'
BLOCKED = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals)); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
READ_ONLY = (
    'mount --make-rprivate / && mount --bind "$MCPHUB_DIR" "$MCPHUB_DIR" && '
    'mount -o remount,ro,bind / && ! touch /tmp/x /var/tmp/x 2>/dev/null && exec "$@"'
)
WAYS = {
    "standard descriptors are closed": ["sh", "-c", CLOSED, "sh"],
    "signals are blocked": [sys.executable, "-c", BLOCKED],
    "files may be small only": ["prlimit", "--fsize=50000000:50000000", "--"],
    "nothing but its directory can be written": ["unshare", "-m", "sh", "-c", READ_ONLY, "sh"],
}


@contextmanager
def served(tmp_path: Path, prefix: list[str], terminal: int | None = None):
    """A hub of two users that was started behind `prefix`, with `terminal` as its standard descriptors."""
    files = ROOT / "tests" / "servers"
    server = {
        "command": "/usr/bin/python3",
        "args": [str(files / "plain.py")],
        "groups": ["everyone"],
        "sandbox": {"readable": [str(files)]},
    }
    hub = HubProcess(tmp_path / "hub")
    hub.init({"quiet": server}, ["alice", "bob"])
    hub._command = [*prefix, *hub._command]
    ready = hub.directory / "ready"
    words = ("serve", "--port", "0", "--ready-file", str(ready))
    if terminal is None:
        process = hub.popen(*words)
    else:
        argv = [*hub._command, *words]
        process = subprocess.Popen(
            argv, env=hub._env, stdin=terminal, stdout=terminal, stderr=terminal
        )
    hub._process = process
    try:
        until = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, hub.log.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        hub.url = json.loads(ready.read_text())["url"]
        yield hub
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_hub_on_a_terminal_serves_two_users_and_writes_lines_for_people(tmp_path):
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    try:
        with served(tmp_path, [], theirs) as hub:
            for user in hub.keys:
                assert hub.call(user, "quiet", "echo", text=user) == user
            told = os.read(ours, 65536).decode()
            assert hub.stop() == 0
    finally:
        os.close(ours)
        os.close(theirs)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", told)
    assert re.search(r"\[info +\] sandbox.level .*level=\d", plain), plain
    assert "Ctrl-C stops the hub." in plain


def test_a_hub_that_is_the_first_process_of_a_container_leaves_no_dead_process_behind(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("run the tests as root to make a process the first one")
    prefix = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    with served(tmp_path, prefix) as hub:
        (first,) = children_of(hub.process.pid, deep=False)
        for _ in range(3):
            for user in hub.keys:
                assert hub.call(user, "quiet", "echo", text=user) == user
            below = children_of(first, deep=False)
            serves = next((pid for pid in below if b"serve" in argv(pid)), first)
            for pid in children_of(serves, deep=False):
                if b"plain.py" in argv(pid):
                    os.kill(pid, signal.SIGKILL)  # what was below it has no parent any more
            until = time.monotonic() + 20
            while dead := [pid for pid in children_of(first) if state(pid) == "Z"]:
                assert time.monotonic() < until, dead
                time.sleep(0.05)
        os.kill(first, signal.SIGTERM)
        assert hub.process.wait(30) == 0, hub.log.read_text()


def argv(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("way", WAYS)
def test_whatever_is_around_a_hub_it_serves_two_users_apart_and_stops_well(tmp_path, way):
    if WAYS[way][0] == "unshare" and os.geteuid() != 0:
        pytest.skip("run the tests as root to make directories read-only")
    with served(tmp_path, WAYS[way]) as hub:
        for user in hub.keys:
            hub.call(user, "quiet", "remember", value=f"of {user}")
        for user in hub.keys:
            assert hub.call(user, "quiet", "recall") == f"of {user}"
        at = [Path(f"/proc/{hub.process.pid}/fd/{number}").readlink() for number in range(3)]
        assert not [place for place in at if place.is_relative_to(hub.directory)], at
        assert hub.stop() == 0, hub.log.read_text()
