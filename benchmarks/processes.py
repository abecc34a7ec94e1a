"""Processes under test: start, find their children, read processor time and memory, end."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@contextmanager
def started(
    argv: list[str],
    env: Mapping[str, str] | None = None,
    *,
    quiet: bool = False,
    end_s: float = 15,
) -> Iterator[subprocess.Popen]:
    """Run `argv` in an own process group; its standard output is a pipe, or nothing when `quiet`.

    It is told to end at the end, and killed when it has not after `end_s` seconds.
    """
    process = subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL if quiet else subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
        start_new_session=True,
        env=env,
    )
    try:
        yield process
    finally:
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(end_s)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also when a second signal ends the waiting
            process.kill()
            process.wait()
            for pid in below:  # what its parent left behind
                if process_group(pid) == process.pid:
                    os.kill(pid, signal.SIGKILL)
            if process.stdout is not None:
                process.stdout.close()


def process_group(pid: int) -> int:
    """Return the process group of `pid`, 0 when it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def free_port() -> int:
    """Return a port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(port: int, process: subprocess.Popen, seconds: float = 60.0) -> None:
    """Return when `port` accepts connections.

    Raises:
        RuntimeError: The process ended, or time is up.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode} before it served")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"it does not serve after {seconds:.0f} s")


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


def cpu_exact_s(pids: Iterable[int]) -> float:
    """Return the time that all threads of `pids` have run so far, in seconds, to the nanosecond."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            try:
                total += int(thread.read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue
    return total / 1e9


def pss_mb(pids: list[int]) -> float:
    """Return the proportional set size of `pids` together, in MB."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1000


def memory_mb(pids: Iterable[int]) -> tuple[float, float]:
    """Return the proportional and the private memory of `pids` together, in MB."""
    total = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            name, _, size = line.partition(":")
            if name in total:
                total[name] += int(size.split()[0])
    return total["Pss"] / 1000, (total["Private_Clean"] + total["Private_Dirty"]) / 1000


def children_of_all() -> dict[int, list[int]]:
    """Return the children of every process that has some."""
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(root: int, below: dict[int, list[int]] | None = None) -> list[int]:
    """Return all processes below `root`, now or as `children_of_all` saw them."""
    below = children_of_all() if below is None else below
    found, queue = [], [root]
    while queue:
        children = below.get(queue.pop(), [])
        found += children
        queue += children
    return found


def machine_busy_s() -> float:
    """Return the processor time that all processes of the machine used so far, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (int(text) for text in fields)
    return (user + nice + system + irq + softirq) * TICK_S
