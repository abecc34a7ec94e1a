"""Run a program to its end: bounded, cancellable with its whole process group, quiet unless it fails."""

import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from os import killpg
from pathlib import Path

import anyio
from anyio.abc import Process

from mcphub.testing.demo.observation import CouldNotRun

_LAST = 600


async def run(
    argv: Sequence[str], *, cwd: Path | None = None, stdin: str = "", timeout_s: float = 120.0
) -> str:
    """Run it and return what it wrote to stdout.

    Args:
        argv: Program and arguments; no secret belongs here.
        cwd: Working directory.
        stdin: Given to the program; secrets go this way.
        timeout_s: Then the whole process group is killed.

    Raises:
        CouldNotRun: It cannot be started, fails or takes too long; its last words are in the message.
    """
    name = " ".join([Path(argv[0]).name, *argv[1:3]])
    try:
        process = await _started(argv, cwd)
    except OSError as error:
        raise CouldNotRun(f"{name}: {error.strerror}") from error
    out, err = bytearray(), bytearray()
    try:
        with anyio.fail_after(timeout_s):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_collect, process.stdout, out)
                tasks.start_soon(_collect, process.stderr, err)
                await _feed(process, stdin)
            await process.wait()
    except TimeoutError:
        raise CouldNotRun(f"{name}: not done after {timeout_s:.0f} s") from None
    finally:
        await end(process)
    if process.returncode:
        words = (err or out).decode(errors="replace").strip()
        raise CouldNotRun(f"{name}: exit status {process.returncode}: {words[-_LAST:]}")
    return out.decode(errors="replace")


async def end(process: Process, *, grace_s: float = 0.0) -> None:
    """End a process that leads its own group: TERM, wait, KILL the group; also when cancelled.

    Args:
        process: Started with `start_new_session`.
        grace_s: Time after TERM; 0 kills at once.
    """
    with anyio.CancelScope(shield=True):
        if process.returncode is None and grace_s:
            process.send_signal(signal.SIGTERM)
            with anyio.move_on_after(grace_s):
                await process.wait()
        # Only while it is not reaped is its id certain to be still its own.
        if process.returncode is None:
            with suppress(ProcessLookupError):
                killpg(process.pid, signal.SIGKILL)
        with anyio.move_on_after(5):
            await process.aclose()


async def _started(argv: Sequence[str], cwd: Path | None) -> Process:
    """Start a program; not to be cancelled half-way, or one that runs would be nobody's to end."""
    with anyio.CancelScope(shield=True):
        return await anyio.open_process(
            list(argv),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    raise AssertionError("a shield swallows nothing")


async def _feed(process: Process, text: str) -> None:
    assert process.stdin is not None
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        if text:
            await process.stdin.send(text.encode())
    await process.stdin.aclose()


async def _collect(stream: anyio.abc.ByteReceiveStream | None, into: bytearray) -> None:
    assert stream is not None
    async for chunk in stream:
        into += chunk
