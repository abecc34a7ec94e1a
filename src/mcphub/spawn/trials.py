"""Trial runs of a server, by nobody in particular: what it says of itself, what an audit of it writes.

Only for neutral launches. The home of such a launch is used, and is worthless afterwards; whatever is
found in it or said was made by foreign code.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from mcphub.ids import instance_id
from mcphub.spawn.discarding import discard
from mcphub.spawn.process import readable
from mcphub.spawn.spawner import Launch, Preload, Spawner, Warm
from mcphub.vault.secret import Secret

TRY_S: Final = 120.0
ROUNDS: Final = 6
"""Times that an audit is repeated without what was found to be unfit."""
_RESULT: Final = "audit.json"
_MOST_OUTPUT: Final = 8 * 1024 * 1024
_LARGEST_RESULT: Final = 4 * 1024 * 1024
_ASKED: Final = frozenset({1, 2})
_HELLO: Final = (
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "mcphub", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}},
)


class Trials:
    """Runs them.

    Args:
        spawner: Starts what is tried.
    """

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner

    async def audited(
        self, launch: Launch, argv: Sequence[str], code: Path, *, greeted: bool
    ) -> bytes | None:
        """Run an audit in the place of a server; returns the file that it wrote, if any.

        Args:
            launch: The server's.
            argv: The audit's command line.
            code: What it needs to read.
            greeted: Talk to it as to a server.
        """
        tried = replace(
            launch,
            instance_id=instance_id(),
            argv=tuple(argv),
            readable=(*launch.readable, code),
            preload=None,
        )
        process = await self._spawner.start(tried)
        try:
            if greeted:
                os.write(process.stdin, _hello())
            await _output(process.stdout, greeted=greeted)
        finally:
            await process.stop(5.0)
        return await asyncio.to_thread(_taken, launch.home / _RESULT)

    async def difference(self, launch: Launch, preload: Preload | Warm, how: str) -> str:
        """Return why a server is another one when it is started so; empty when it is the same."""
        expected = await self.answers(replace(launch, preload=None))
        if expected is None:
            return "It does not start without a user's credentials, so it could not be compared."
        found = await self.answers(replace(launch, preload=preload))
        if found is None:
            return f"It did not start when it was {how}."
        return "" if found == expected else f"It answered differently when it was {how}."

    async def answers(self, launch: Launch) -> list[object] | None:
        """Return what a server says of itself, or None when it does not."""
        launch = replace(launch, instance_id=instance_id())
        await asyncio.to_thread(discard, launch.home)
        process = await self._spawner.start(launch)
        try:
            os.write(process.stdin, _hello())
            data = await _output(process.stdout, greeted=True)
        finally:
            await process.stop(0)
        found = _answered(data)
        said = [found.get(number) for number in sorted(_ASKED)]
        return None if None in said else said


def words_of(launch: Launch) -> list[str]:
    """Return the command line; of a neutral launch even a secret is a placeholder."""
    return [word.reveal() if isinstance(word, Secret) else word for word in launch.argv]


def _hello() -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in _HELLO)


def _taken(path: Path) -> bytes | None:
    """Read and remove what a server wrote; it is untrusted. Blocking."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        text = file.read(_LARGEST_RESULT + 1)
    path.unlink(missing_ok=True)
    return text if len(text) <= _LARGEST_RESULT else None


async def _output(fd: int, *, greeted: bool) -> bytes:
    """Read a server's output to its end, or until it has answered the greeting."""
    data = b""
    async with asyncio.timeout(TRY_S):
        while not (greeted and set(_answered(data)) >= _ASKED):
            await readable(fd)
            with contextlib.suppress(BlockingIOError):
                part = os.read(fd, 65_536)
                if not part or len(data) > _MOST_OUTPUT:
                    break
                data += part
    return data


def _answered(data: bytes) -> dict[object, object]:
    """Return id -> result of every answer that is complete; an error counts as None."""
    found: dict[object, object] = {}
    for line in data.splitlines(keepends=True):
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            message = json.loads(line)
            if line.endswith(b"\n") and ("result" in message or "error" in message):
                found[message["id"]] = message.get("result")
    return found
