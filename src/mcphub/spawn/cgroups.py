"""Limits of memory, processes and processor time by control groups, v1 and v2.

One directory per instance and hierarchy, made at start, removed at stop. Where no hierarchy can be
written (an unprivileged hub without delegation) there are no limits here and `Cgroups.controllers`
says so. Never touched: groups of others; leftovers of a crashed hub are removed when empty.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mcphub import ids
from mcphub.catalog.spec import SandboxSpec

_ROOT: Final = Path("/sys/fs/cgroup")
_WANTED: Final = ("memory", "pids", "cpu")
_PERIOD_US: Final = 100_000
_WEIGHTS: Final = (
    ("cpu.shares", 1024, 262_144),
    ("cpu.weight", 100, 10_000),
)  # v1, v2: of one, most
_EMPTY_WAIT_S: Final = 5.0
_STALE_S: Final = 120.0
_CHARGED: Final = ("memory.current", "memory.usage_in_bytes")  # v2, v1
_EVENTS: Final = (
    ("memory", "memory.events", "oom_kill"),  # v2
    ("memory", "memory.oom_control", "oom_kill"),  # v1
    ("pids", "pids.events", "max"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """The control groups of one instance; empty where the machine offers none.

    Attributes:
        paths: One directory per hierarchy.
    """

    paths: tuple[Path, ...] = ()

    @property
    def join_files(self) -> list[str]:
        """Files that a process of one thread writes `0` to in order to join; what it forks joins too.

        With v1 that is `tasks`: the kernel moves the calling thread at once, whereas for a process it waits
        some milliseconds, in each hierarchy, until no other thread of the machine forks or ends.
        """
        return [str(path / ("cgroup.procs" if _is_v2(path) else "tasks")) for path in self.paths]

    def holds(self, pid: int) -> bool:
        """Whether a process is in all of the groups."""
        return all(str(pid) in (path / "cgroup.procs").read_text().split() for path in self.paths)

    def pids(self) -> set[int]:
        """Return every process in the groups, as host pids."""
        found: set[int] = set()
        for path in self.paths:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (path / "cgroup.procs").read_text().split()}
        return found

    @property
    def memory_bytes(self) -> int:
        """What the groups are charged for; 0 where nothing counts it."""
        for path in self.paths:
            for file in _CHARGED:
                with contextlib.suppress(OSError, ValueError):
                    return int((path / file).read_text())
        return 0

    def reached(self) -> set[str]:
        """Return which of `memory` and `pids` were at their limit: a process was killed, a fork refused."""
        return {
            kind
            for path in self.paths
            for kind, file, key in _EVENTS
            if _count(path / file, key) > 0
        }

    def page_out(self) -> None:
        """Give the memory to swap, where the kernel can; blocks for some tenths of a second."""
        for path in self.paths:
            for file, text in (("memory.reclaim", "1G"), ("memory.force_empty", "0")):
                with contextlib.suppress(OSError):  # not in every version; nothing more to give
                    (path / file).write_text(text)

    def kill(self) -> None:
        """Send KILL to every process in the groups."""
        for path in self.paths:
            with contextlib.suppress(OSError):
                (path / "cgroup.kill").write_text("1")
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def remove(self) -> bool:
        """Kill what is left, wait until the groups are empty, remove them; False if that failed."""
        deadline = asyncio.get_running_loop().time() + _EMPTY_WAIT_S
        pause = 0.002
        while True:
            if self.pids():
                self.kill()
            elif all(_rmdir(path) for path in self.paths):
                return True
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)


class Cgroups:
    """Finds the hierarchies that this process may write and makes groups in them.

    Attributes:
        controllers: Controllers that really limit here, of memory, pids and cpu.
    """

    def __init__(self) -> None:
        self._bases: dict[Path, tuple[str, ...]] = {}
        self._v2 = False
        found: list[str] = []
        for base, names, version in _candidates():
            missing = tuple(name for name in names if name not in found)
            if missing and _usable(base, missing, version):
                self._bases[base] = missing
                self._v2 = self._v2 or version == 2
                found += missing
        self.controllers: frozenset[str] = frozenset(found)
        for base, names in self._bases.items():
            if "cpu" in names:
                _weigh(base)
            _sweep(base)

    @classmethod
    def none(cls) -> Self:
        """Return one that limits nothing."""
        self = cls.__new__(cls)
        self._bases, self._v2, self.controllers = {}, False, frozenset()
        return self

    def create(self, name: str, spec: SandboxSpec) -> Group:
        """Make the groups of one instance with its limits.

        Raises:
            OSError: The kernel refused; nothing is left behind.
        """
        made: list[Path] = []
        try:
            for base, names in self._bases.items():
                path = base / name
                path.mkdir()
                made.append(path)
                for controller in names:
                    _limit(path, controller, spec)
        except OSError:
            for path in made:
                _rmdir(path)
            raise
        return Group(tuple(made))


def _candidates() -> list[tuple[Path, tuple[str, ...], int]]:
    """Return (directory for our groups, controllers it could give, version), best first."""
    found: list[tuple[Path, tuple[str, ...], int]] = []
    with contextlib.suppress(OSError):
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        own = _own_groups()
        for line in mounts:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            root = Path(left.split(" ")[4])
            if kind == "cgroup2":
                group = root / own.get("", "/").lstrip("/")
                for place in dict.fromkeys((group, root)):
                    with contextlib.suppress(OSError):
                        have = (place / "cgroup.controllers").read_text().split()
                        names = tuple(name for name in _WANTED if name in have)
                        found.append((place / "mcphub", names, 2))
            elif kind == "cgroup":
                names = tuple(name for name in _WANTED if name in options.strip().split(","))
                found += [
                    (root / own.get(name, "/").lstrip("/") / "mcphub", names, 1) for name in names
                ]
    return found


def _own_groups() -> dict[str, str]:
    """Controller name ("" for v2) -> this process's group."""
    groups: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            groups[name] = path
    return groups


def _usable(base: Path, names: tuple[str, ...], version: int) -> bool:
    """Try it for real: make the directory, a group below, set every limit, remove the group."""
    try:
        base.mkdir(exist_ok=True)
        if version == 2:
            wanted = " ".join(f"+{name}" for name in names)
            for place in (base.parent, base):
                (place / "cgroup.subtree_control").write_text(wanted)
        probe = base / ids.opaque("probe")  # not by pid: hubs of two containers have the same one
        probe.mkdir()
        try:
            for name in names:
                _limit(probe, name, SandboxSpec())
        finally:
            probe.rmdir()
    except OSError:
        return False
    return True


def _limit(path: Path, controller: str, spec: SandboxSpec) -> None:
    v2 = _is_v2(path)
    memory = spec.memory_mb * 1024 * 1024
    quota = max(1000, int(spec.cpu * _PERIOD_US))
    if controller == "memory" and v2:
        (path / "memory.max").write_text(str(memory))
        _try_write(path / "memory.swap.max", "0")
        _try_write(path / "memory.oom.group", "1")
    elif controller == "memory":
        (path / "memory.limit_in_bytes").write_text(str(memory))
    elif controller == "pids":
        (path / "pids.max").write_text(str(spec.pids))
    elif controller == "cpu" and v2:
        (path / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
    elif controller == "cpu":
        (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (path / "cpu.cfs_quota_us").write_text(str(quota))


def _is_v2(path: Path) -> bool:
    return (path / "cgroup.controllers").exists()


def _weigh(base: Path) -> None:
    """Let all instances together weigh, on each core, as much as one other process: no more, no less.

    The kernel spreads the weight of a group over the cores on which it runs. With the default, that of
    one process, a start on a busy machine would get a part of a part; without a group, a thousand
    instances would leave the hub a thousandth.
    """
    for file, one, most in _WEIGHTS:
        if (base / file).exists():
            _try_write(base / file, str(min(most, one * (os.cpu_count() or 1))))


def _sweep(base: Path) -> None:
    """Remove what a crashed hub left: empty groups, and not those that another hub makes just now."""
    probe = base / ids.opaque("probe")
    with contextlib.suppress(OSError):
        probe.mkdir()
        now = probe.stat().st_mtime
        for stale in base.iterdir():
            if stale.is_dir() and now - stale.stat().st_mtime > _STALE_S:
                _rmdir(stale)  # fails, rightly, where processes still live
        probe.rmdir()


def _count(path: Path, key: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    return 0


def _try_write(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # not in every kernel
        path.write_text(text)


def _rmdir(path: Path) -> bool:
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
