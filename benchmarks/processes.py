"""Processes under test: start, find their children, read their processor time, end."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(argv: list[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """Run `argv` in an own process group; its standard output is a pipe."""
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, text=True, start_new_session=True, env=env
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pids: list[int]) -> float:
    """Return user and system time of `pids` so far, in seconds; processes that are gone count 0."""
    total = 0.0
    for pid in pids:
        try:
            fields = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += (int(fields[11]) + int(fields[12])) * TICK_S
    return total


def descendants(root: int) -> list[int]:
    """Return all processes below `root`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, queue = [], [root]
    while queue:
        children = parents.get(queue.pop(), [])
        found += children
        queue += children
    return found


def machine_busy_s() -> float:
    """Return the processor time that all processes of the machine used so far, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (int(text) for text in fields)
    return (user + nice + system + irq + softirq) * TICK_S
