"""What the sandbox really enforces on this machine, found by trying it; for `mcphub doctor`.

Each row runs something and looks at what happened; nothing is concluded from version numbers. The
whole report takes about a second and leaves nothing behind.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import HubError
from mcphub.ids import instance_id
from mcphub.spawn import seccomp
from mcphub.spawn.building import Layer
from mcphub.spawn.cgroups import Cgroups
from mcphub.spawn.confinement import landlock
from mcphub.spawn.process import ChildProcess
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch

_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_TIMEOUT_S: Final = 15.0
_HINTS: Final = {
    "bubblewrap": "apt install bubblewrap",
    "setpriv": "apt install util-linux",
    "user namespaces": (
        "sysctl user.max_user_namespaces=10000; on Ubuntu 24.04 and later also "
        "kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap"
    ),
    "uid per user": "run the hub as root (a system service), or accept level 3",
    "memory limit": "run the hub as root, or with systemd `Delegate=yes`",
    "process limit": "run the hub as root, or with systemd `Delegate=yes`",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One layer of the sandbox.

    Attributes:
        layer: Its name.
        ok: Whether it works here.
        tried: What was done to find out.
        error: What happened instead, one line.
        hint: What an administrator can do.
    """

    layer: str
    ok: bool
    tried: str
    error: str = ""
    hint: str = ""


def report(uid_base: int = 200_000) -> list[Row]:
    """Try every layer. Blocks for about a second; safe to call with or without an event loop."""
    rows: list[Row] = []

    def work() -> None:
        # An own thread: the caller may have a running loop, and the parent-death signal needs a
        # thread that lives as long as what it starts.
        rows.extend(asyncio.run(_report(uid_base)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return rows


async def _report(uid_base: int) -> list[Row]:
    rows = [
        _command("user namespaces", ["unshare", "--user", "--map-root-user", "true"]),
        _command(
            "namespaces",
            ("unshare", "-rmpfniuC", "true"),
        ),
        _command("bubblewrap", ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "/bin/true"]),
        _command(
            "setpriv",
            ["setpriv", "--pdeathsig", "KILL", "--", "true"],
        ),
    ]
    with tempfile.TemporaryDirectory(prefix="mcphub-doctor-") as folder:
        state = Path(folder)
        async with SandboxedSpawner(SandboxSettings(state / "run", uid_base)) as spawner:
            tried = "start a program with the full profile"
            rows.append(
                Row(
                    "sandbox",
                    spawner.level > 0,
                    f"{tried}: {spawner.means}",
                    "" if spawner.level > 2 else spawner.problem,
                    _hint_for(spawner),
                )
            )
            if spawner.level:
                trial = _Trial(spawner, state, uid_base)
                rows += [
                    await trial.seccomp(),
                    await trial.uid(),
                    await trial.overlay(),
                    await trial.memory(),
                    await trial.processes(),
                    await trial.network(),
                    await trial.egress(),
                ]
            rows.append(await _parent_death(state, uid_base))
            found = Row("level", spawner.level > 0, f"level {spawner.level} of 5")
        rows += [await _own_code(state, uid_base), _landlock(), found]
    return rows


async def _own_code(state: Path, uid_base: int) -> Row:
    """The second way of building a sandbox: what there is when bubblewrap goes missing."""
    tried = "start a program in a sandbox of the hub's own code"
    settings = SandboxSettings(state / "own", uid_base, frozenset({Layer.BUBBLEWRAP}))
    async with SandboxedSpawner(settings) as spawner:
        ok = spawner.level > 2
        return Row(
            "own sandbox code", ok, f"{tried}: level {spawner.level}", spawner.problem * (not ok)
        )


def _landlock() -> Row:
    version = landlock.abi()
    ok = version >= landlock.SCOPES_ABI
    error = "" if ok else f"ABI {version}, {landlock.SCOPES_ABI} is needed (Linux 6.12)"
    return Row("landlock", ok, f"ask the kernel: ABI {version}", error)


def _hint_for(spawner: SandboxedSpawner) -> str:
    return "" if spawner.level else "The rows above say which layer is missing."


def _command(layer: str, argv: Sequence[str]) -> Row:
    tried = " ".join(argv)
    if shutil.which(argv[0], path=_ENV["PATH"]) is None:
        return Row(layer, False, tried, f"{argv[0]} is not installed", _HINTS.get(layer, ""))
    done = subprocess.run(argv, env=_ENV, capture_output=True, check=False, timeout=_TIMEOUT_S)
    error = done.stderr.decode("utf-8", "replace").strip().splitlines()
    ok = done.returncode == 0
    return Row(
        layer, ok, tried, "" if ok else (error or ["failed"])[-1], "" if ok else _hint(layer)
    )


def _hint(layer: str) -> str:
    return _HINTS.get(layer, "")


class _Trial:
    """Runs small programs in the sandbox and judges by what they print."""

    def __init__(self, spawner: SandboxedSpawner, state: Path, uid_base: int) -> None:
        self._spawner = spawner
        self._state = state
        self._uid_base = uid_base

    async def seccomp(self) -> Row:
        tried = "unshare --user inside the sandbox"
        if not seccomp.supported():
            return Row("seccomp", False, tried, "no filter for this processor")
        status, out = await self._run(
            "grep Seccomp: /proc/self/status; unshare -U true 2>/dev/null"
        )
        ok = status != 0 and "\t2" in out
        return Row("seccomp", ok, tried, "" if ok else f"status {status}: {out.strip()}")

    async def uid(self) -> Row:
        tried = "make a file inside, look at its owner outside"
        if os.geteuid() != 0:
            return Row("uid per user", False, tried, "the hub is not root", _hint("uid per user"))
        await self._run("echo > owned")
        try:
            owner = (self._state / "home" / "owned").stat().st_uid
        except OSError:
            return Row("uid per user", False, tried, "no file was made")
        ok = owner == self._uid_base
        return Row("uid per user", ok, tried, "" if ok else f"owner is uid {owner}")

    async def overlay(self) -> Row:
        tried = "look whether /usr is a filesystem of its own inside"
        _, out = await self._run("grep ' /usr ' /proc/self/mountinfo")
        ok = " overlay " in out
        return Row(
            "private package inodes",
            ok,
            tried,
            "" if ok else "package files are shared: servers can watch and lock them (timing only)",
        )

    async def memory(self) -> Row:
        tried = "fill 64 MiB of memory with a limit of 32"
        code = (
            "echo began; head -c 67108864 /dev/zero | tail -c 67108864 > /dev/null && echo survived"
        )
        _, out = await self._run(code, SandboxSpec(memory_mb=32))
        ok = "began" in out and "survived" not in out
        return Row(
            "memory limit", ok, tried, "" if ok else "no limit", "" if ok else _hint("memory limit")
        )

    async def processes(self) -> Row:
        tried = "start 40 processes with a limit of 20"
        code = "echo began; i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i + 1)); done; echo survived; kill 0"
        _, out = await self._run(code, SandboxSpec(pids=20))
        ok = "began" in out and "survived" not in out
        return Row(
            "process limit",
            ok,
            tried,
            "" if ok else "no limit",
            "" if ok else _hint("process limit"),
        )

    async def network(self) -> Row:
        tried = "list the network interfaces inside"
        _, out = await self._run("tail -n +3 /proc/net/dev | cut -d: -f1")
        ok = out.split() == ["lo"]
        return Row("network", ok, tried, "" if ok else f"interfaces: {' '.join(out.split())}")

    async def egress(self) -> Row:
        tried = "look up one listed and one unlisted name inside"
        spec = SandboxSpec(egress=("listed.example.org",))
        code = "getent hosts listed.example.org && ! getent hosts unlisted.example.org && echo done"
        status, out = await self._run(code, spec)
        ok = status == 0 and "done" in out
        return Row("egress gateway", ok, tried, "" if ok else out.strip() or "no answer")

    async def _run(self, script: str, spec: SandboxSpec | None = None) -> tuple[int, str]:
        """Return exit status and output; -1 and the reason when it cannot be started."""
        launch = Launch(
            instance_id(),
            "neutral",
            0,
            ("/bin/sh", "-c", script),
            self._state / "home",
            sandbox=spec or SandboxSpec(),
        )
        try:
            process = await self._spawner.start(launch)
        except HubError as error:
            return -1, str(error)
        return await _finish(process)


async def _finish(process: ChildProcess) -> tuple[int, str]:
    await asyncio.wait([process.exited], timeout=_TIMEOUT_S)
    status = process.exited.result() if process.exited.done() else -1
    try:
        out = os.read(process.stdout, 65536).decode("utf-8", "replace")
    except BlockingIOError:
        out = ""
    await process.stop(0)
    return status, out


_HUB: Final = """
import asyncio, os, signal, sys
sys.path[:] = sys.argv[3:]
from pathlib import Path
from mcphub import ids
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch
async def main():
    state = Path(sys.argv[1])
    async with SandboxedSpawner(SandboxSettings(state / "hub", int(sys.argv[2]))) as spawner:
        argv = ("/bin/sleep", "600")
        name = ids.instance_id()  # a doctor beside this one has another
        process = await spawner.start(Launch(name, "neutral", 0, argv, state / "home"))
        print(process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
"""


async def _parent_death(state: Path, uid_base: int) -> Row:
    tried = "kill -9 a hub, look for its instance"
    path = [entry for entry in sys.path if entry]
    argv = [sys.executable, "-I", "-c", _HUB, str(state), str(uid_base), *path]
    done = await asyncio.to_thread(
        subprocess.run, argv, env=_ENV, capture_output=True, check=False, timeout=_TIMEOUT_S
    )
    words = done.stdout.split()
    if not words:
        return Row("ends with the hub", False, tried, "the instance did not start")
    pid = int(words[0])
    for _ in range(100):
        if _is_dead(pid):
            Cgroups()  # removes the empty groups of that hub
            return Row("ends with the hub", True, tried)
        await asyncio.sleep(0.02)
    return Row("ends with the hub", False, tried, "the instance still runs")


def _is_dead(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
