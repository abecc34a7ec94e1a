"""The spawner without isolation: a plain process group. Only where an administrator allowed it.

What it does keep: an environment from empty, a private HOME and TMPDIR, bounded and redacted stderr,
and that nothing survives a stop or the hub. What it does not: files, processes, network and limits
of others are open to every instance.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

import structlog

from mcphub.errors import InvalidInput, Unavailable, UpstreamFailed
from mcphub.spawn import laid, reaper
from mcphub.spawn.process import ChildProcess, spawn
from mcphub.spawn.spawner import Launch
from mcphub.spawn.stderr import StderrBuffer, names_of
from mcphub.vault.secret import Secret

_log = structlog.get_logger()

_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_EMPTY_WAIT_S: Final = 5.0
_WARNING: Final = (
    "Instances run WITHOUT a sandbox: every server can read the files, processes and network of "
    "this machine, the hub's and other users' included."
)


class UnsandboxedSpawner:
    """Implements `spawner.Spawner` at level 0. Enter it on the event loop's main thread."""

    means = ""

    def __init__(self) -> None:
        self.level = 0
        self.warning = _WARNING
        self._watchdog = reaper.Watchdog()
        self._running: set[ChildProcess] = set()
        self._setpriv = shutil.which("setpriv", path="/usr/bin:/bin")

    async def __aenter__(self) -> Self:
        """Start the watchdog."""
        self._watchdog.__enter__()
        _log.warning("spawner.unsandboxed")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kill every instance that still runs, then let the watchdog look once more."""
        await asyncio.gather(*(process.stop(0) for process in list(self._running)))
        self._watchdog.__exit__()

    def home_inside(self, launch_home: Path) -> str:
        """Return the home itself: there is no other view of the files."""
        return str(launch_home)

    async def start(self, launch: Launch) -> ChildProcess:
        """Start a process group.

        Raises:
            Unavailable: The machine is out of something, or the launch has files.
            UpstreamFailed: The program or the directory does not exist.
        """
        laid.refuse(launch)
        _check_program(launch.argv)
        cwd, tmp = _make_directories(launch)
        try:
            return self._popen(launch, cwd, tmp)
        except BaseException:
            shutil.rmtree(tmp, ignore_errors=True)
            raise

    def _popen(self, launch: Launch, cwd: Path, tmp: str) -> ChildProcess:
        marks = {
            reaper.HUB_MARK: self._watchdog.mark,
            reaper.INSTANCE_MARK: launch.instance_id,
        }
        env = _environment(launch.env, str(launch.home), tmp) | marks
        argv = [arg.reveal() if isinstance(arg, Secret) else arg for arg in launch.argv]
        if any("\0" in text for text in (*argv, *env.values())):
            raise InvalidInput("A value of the server's environment holds a NUL character.")
        process: ChildProcess | None = None

        async def cleanup() -> None:
            deadline = asyncio.get_running_loop().time() + _EMPTY_WAIT_S
            while not reaper.kill_marked(launch.instance_id):
                if asyncio.get_running_loop().time() > deadline:
                    _log.error("spawner.survivors", instance=launch.instance_id)
                    break
                await asyncio.sleep(0.01)
            shutil.rmtree(tmp, ignore_errors=True)
            if process is not None:
                self._running.discard(process)

        armed = [self._setpriv, "--pdeathsig", "KILL", "--"] if self._setpriv else []
        process = spawn(
            [*armed, *argv],
            env=env,
            cwd=str(cwd),
            pass_fds=(),
            tail=StderrBuffer(
                laid.secrets_of(launch),
                shown=names_of(launch.home, "~", launch.readable),
                programs=("setpriv",),
            ),
            terminate=lambda pid: _signal_group(pid, signal.SIGTERM),
            kill=lambda pid: _signal_group(pid, signal.SIGKILL),
            cleanup=cleanup,
            outermost_serves=True,
        )
        self._running.add(process)
        return process


def _check_program(argv: tuple[str | Secret, ...]) -> None:
    program = argv[0] if argv else ""
    if isinstance(program, Secret) or not program.startswith("/"):
        raise UpstreamFailed(
            "The server has no program with an absolute path.",
            hint="Check `command` of the server.",
        )
    if not os.access(program, os.X_OK) or not Path(program).is_file():
        raise UpstreamFailed(
            "The server's program does not exist or is not executable.",
            hint="Check `command` of the server.",
        )


def _make_directories(launch: Launch) -> tuple[Path, str]:
    """Return the working directory and the private TMPDIR."""
    try:
        launch.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        cwd = launch.home / launch.cwd
        cwd.mkdir(parents=True, exist_ok=True)
        return cwd, tempfile.mkdtemp(prefix="mcphub-")
    except OSError:
        raise Unavailable(
            "The home directory of the instance cannot be made.",
            hint="Check the free space and the owner of the hub's `homes` directory.",
        ) from None


def _environment(given: Mapping[str, str | Secret], home: str, tmp: str) -> dict[str, str]:
    defaults = {
        "HOME": home,
        "PATH": _PATH,
        "TMPDIR": tmp,
        "USER": "mcp",
        "LOGNAME": "mcp",
        "LANG": "C.UTF-8",
    }
    return defaults | {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in given.items()
    }


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
