"""What a hub finds around it: closed descriptors, blocked signals, small limits, read-only files. Two users each time.

`systemd` gives a service such surroundings by its settings (`ProtectSystem=strict`, `LimitFSIZE=`).
"""

import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.serving import HubProcess
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
def served(tmp_path: Path, prefix: list[str]):
    """A hub of two users that was started behind `prefix`."""
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
    process = hub._process = hub.popen("serve", "--port", "0", "--ready-file", str(ready))
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
        assert process.stdout is not None
        process.stdout.close()


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
