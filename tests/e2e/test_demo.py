"""The demo from outside: the real command, real servers from npm and PyPI, real databases."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROWS = ["token", "git", "variable", "files", "files-os", "memory", "postgres", "mysql", "mariadb"]
SERVING = "Ctrl-C ends everything."


def wait_for(words: str, log: Path, process: "subprocess.Popen[bytes]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def processes_of(directory: Path) -> dict[int, str]:
    """Return processes whose command line names `directory`."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if str(directory) in line:
                found[int(entry.name)] = line
    return found


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_two_users_leak_over_shared_servers_and_not_through_the_hub(tmp_path: Path) -> None:
    directory, log = tmp_path / "demo", tmp_path / "log"
    command = [sys.executable, "-m", "mcphub.testing.demo", "--databases", "--dir", str(directory)]
    with log.open("wb") as out:
        demo = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(SERVING, log, demo, 840)
        report = json.loads((directory / "report.json").read_text())
        assert report["problems"] == []
        assert [row["key"] for row in report["rows"]] == ROWS
        assert all(row["before"]["leaked"] for row in report["rows"])
        assert not any(row["after"]["leaked"] for row in report["rows"])
        assert len(processes_of(directory)) > 1
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=60) == 0, log.read_text()
        assert processes_of(directory) == {}
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(timeout=60)
