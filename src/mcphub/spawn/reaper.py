"""Ends what an instance without a sandbox leaves behind, also when the hub was killed.

Every process of such an instance carries two marks in its environment: the hub's and its own. A
watchdog, one small shell per hub, holds a pipe of the hub; when the pipe closes, however the hub
ended, it kills every process with the hub's mark. A process that clears its environment escapes:
that is one reason why running without a sandbox warns everywhere.
"""

import contextlib
import os
import secrets
import signal
import subprocess
from typing import Final, Self

HUB_MARK: Final = "MCPHUB_HUB"
INSTANCE_MARK: Final = "MCPHUB_INSTANCE"
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
# Several rounds: a process may fork while the list is made. Its own marks are arguments, not
# environment, so it never finds itself.
_SCRIPT: Final = r"""
trap '' INT TERM HUP
read -r _
round=0
while [ $round -lt 20 ]; do
  found=$(grep -lszxF -- "$1" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
  [ -n "$found" ] || exit 0
  kill -9 $found 2>/dev/null
  round=$((round + 1))
done
"""


class Watchdog:
    """The shell that outlives the hub by a moment. Enter it once per hub."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(16)
        self._pipe = -1
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        theirs, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            self._popen = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sh", f"{HUB_MARK}={self.mark}"],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_ENV,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        """Let it kill what is left and wait for its end."""
        os.close(self._pipe)
        if self._popen is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(10)

    @property
    def pid(self) -> int | None:
        """Pid of the shell."""
        return self._popen.pid if self._popen is not None else None


def marked(mark: str, value: str) -> set[int]:
    """Return the processes whose environment holds `mark=value`, as far as we may look."""
    wanted = f"{mark}={value}".encode()
    found: set[int] = set()
    for name in os.listdir("/proc"):  # noqa: PTH208  names, not paths: hundreds of entries
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                if wanted in file.read().split(b"\0"):
                    found.add(int(name))
    return found


def kill_marked(instance_id: str) -> bool:
    """Send KILL to every process of an instance; True when there was none."""
    pids = marked(INSTANCE_MARK, instance_id)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return not pids
