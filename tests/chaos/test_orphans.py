"""kill -9 of a hub leaves nothing behind; a wild instance harms no other."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from mcphub.catalog.spec import SandboxSpec
from mcphub.ids import instance_id
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch

HUB = """
import asyncio, sys
from pathlib import Path
from mcphub.catalog.spec import SandboxSpec
from mcphub.ids import instance_id
from mcphub.spawn.building import Layer
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.spawn.spawner import Launch
from tests.forked import ForkingSpawner
kind, state, mark = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
child = f"import time; time.sleep(600)  # {mark}"
code = (
    "import subprocess, sys, time\\n"
    f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\\n"
    f"print('up', flush=True); time.sleep(600)  # {mark}"
)
async def main():
    without = {"own-code": {Layer.BUBBLEWRAP}, "no-namespaces": {Layer.NAMESPACES}}.get(kind, set())
    egress = () if kind == "no-namespaces" else ("host.example",)
    sandboxed = SandboxedSpawner(SandboxSettings(state / "run", without=frozenset(without)))
    spawner = {
        "unsandboxed": UnsandboxedSpawner,
        "forked": lambda: ForkingSpawner(SandboxSettings(state / "run")),
    }.get(kind, lambda: sandboxed)()
    async with spawner:
        for number in (16, 17):
            process = await spawner.start(Launch(
                instance_id(), f"u_{number}", number, ("/usr/bin/python3", "-c", code),
                state / str(number), sandbox=SandboxSpec(egress=egress),
            ))
            up = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(process.stdout, up.set)
            await up.wait()
            loop.remove_reader(process.stdout)
        print("READY", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def processes() -> dict[int, bytes]:
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                found[int(name)] = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
    return found


def children_of(pid: int) -> set[int]:
    found = set()
    with contextlib.suppress(OSError):  # gone meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | children_of(child)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A place that every uid can pass through: without an own root, homes have the host's paths."""
    with tempfile.TemporaryDirectory(prefix="mcphub-orphans-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o711)
        yield place


def carrying(mark: str, hub: int) -> set[int]:
    return {pid for pid, line in processes().items() if mark.encode() in line} - {hub}


@pytest.mark.parametrize(
    "kind", ["bubblewrap", "own-code", "no-namespaces", "forked", "unsandboxed"]
)
def test_killing_the_hub_ends_every_instance_and_the_gateway(kind, tmp_path):
    mark = instance_id()
    argv = [sys.executable, "-c", HUB, kind, str(tmp_path), mark]
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as hub,
        contextlib.ExitStack() as always,
    ):
        always.callback(hub.kill)  # else a failure here would wait for the hub's own end
        assert hub.stdout is not None
        for line in hub.stdout:
            if line == b"READY\n":
                break
        limit = time.monotonic() + 10
        wanted = (
            2 if kind == "forked" else 4
        )  # two, which show no command line when they are forked,
        while (
            len(marked := carrying(mark, hub.pid)) < wanted
        ):  # each with a child in its own session
            assert time.monotonic() < limit, marked
            time.sleep(0.02)
        tree = children_of(hub.pid)
        assert len(tree) >= 3
        hub.send_signal(signal.SIGKILL)
        hub.wait()
    deadline = time.monotonic() + 2
    while left := {pid for pid in tree | marked if alive(pid)}:
        assert time.monotonic() < deadline, [processes().get(pid) for pid in left]
        time.sleep(0.02)


async def wait(process, limit_s: float = 30) -> int:
    with anyio.fail_after(limit_s):
        return await process.exited


@pytest.mark.anyio
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: memory limits are set by cgroups")
async def test_a_memory_hog_is_killed_and_its_neighbour_is_not(tmp_path):
    async with SandboxedSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        assert "memory" in spawner.controllers
        neighbour = await spawner.start(
            Launch(instance_id(), "u_16", 16, ("/bin/cat",), tmp_path / "16")
        )
        hog = await spawner.start(
            Launch(
                instance_id(),
                "u_17",
                17,
                ("/usr/bin/python3", "-c", "x = bytearray(400_000_000); print(len(x))"),
                tmp_path / "17",
                sandbox=SandboxSpec(memory_mb=64),
            )
        )
        assert await wait(hog) == 128 + signal.SIGKILL
        os.write(neighbour.stdin, b"still here\n")
        with anyio.fail_after(10):
            await anyio.wait_readable(neighbour.stdout)
        assert os.read(neighbour.stdout, 100) == b"still here\n"


@pytest.mark.anyio
async def test_a_fork_bomb_stays_inside_its_limit(tmp_path):
    bomb = (
        "import os, sys\n"
        "made = 0\n"
        "while made < 500:\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            import time; time.sleep(600)\n"
        "        made += 1\n"
        "    except OSError:\n"
        "        break\n"
        "print(made, flush=True); sys.stdin.read()\n"
    )
    async with SandboxedSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        wild = await spawner.start(
            Launch(
                instance_id(),
                "u_16",
                16,
                ("/usr/bin/python3", "-c", bomb),
                tmp_path / "16",
                sandbox=SandboxSpec(pids=30),
            )
        )
        with anyio.fail_after(30):
            await anyio.wait_readable(wild.stdout)
        assert int(os.read(wild.stdout, 100)) < 30
        neighbour = await spawner.start(
            Launch(instance_id(), "u_17", 17, ("/bin/true",), tmp_path / "17")
        )
        assert await wait(neighbour) == 0
        with anyio.fail_after(10):
            await wild.stop(0)
