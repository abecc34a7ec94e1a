"""What a process leaves is cleaned up once, whoever waits for its end and gives up."""

import os
import signal
import sys

import anyio
import pytest

from mcphub.spawn.process import signal_pid, spawn
from mcphub.spawn.stderr import StderrBuffer

pytestmark = pytest.mark.anyio
WAITS = "import sys; sys.stdin.read()"


async def test_a_stop_that_is_given_up_and_made_again_cleans_up_once_and_waits_for_it():
    begun, done = [], []

    async def cleanup() -> None:
        begun.append(len(begun))
        await anyio.sleep(0.3)
        done.append(len(done))

    process = spawn(
        [sys.executable, "-c", WAITS],
        env={},
        cwd=None,
        pass_fds=(),
        tail=StderrBuffer([]),
        terminate=lambda pid: signal_pid(pid, signal.SIGTERM),
        kill=lambda pid: signal_pid(pid, signal.SIGKILL),
        cleanup=cleanup,
    )
    descriptors = (process.stdin, process.stdout)
    for seconds in (0.0, 0.05):
        with anyio.move_on_after(seconds):
            await process.stop(0)
    assert len(done) == 0
    with anyio.fail_after(10):
        await process.stop(0)
        await process.stop(0)
    assert (begun, done) == ([0], [0])
    for fd in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
