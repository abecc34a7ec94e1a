"""`RemoteLab`: a server that runs elsewhere, in the form of a `Lab`; sessions are the only separation.

Nothing can be started anew, no file, credential or connection of it can be looked at. What remains is
proof by canaries: what A gave it and B gets. A clean result says so.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from mcphub.isolation.backends import Backend
from mcphub.isolation.canaries import Canaries
from mcphub.isolation.credentials import Disguise
from mcphub.isolation.lab import LEAVE_S
from mcphub.isolation.sessions import Sessions
from mcphub.isolation.subject import Subject
from mcphub.isolation.territory import Territory
from mcphub.isolation.witness.server import Witness
from mcphub.tasks import Tasks

_NOTE: Final = (
    "It was checked where it runs: what shows only in a fresh process (counters, current places, caches, "
    "credentials it sends on) was not looked for. Check the command that starts it for that."
)


class RemoteLab:
    """A running server and two users.

    Args:
        subject: Its name and URL.
        directory: Private, empty directory.
        headers: User -> what that user really proves; may be empty.
    """

    behind_hub = False
    starts_anew = False

    def __init__(
        self, subject: Subject, directory: Path, headers: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.subject = subject
        self.secrets: Canaries[str] = Canaries()
        self.witness = Witness(directory / "witness", self.secrets)
        self.starts = 0
        self.calls = 0
        self.backends: list[Backend] = []
        self.disguise = Disguise((), {}, ())
        self.territory = Territory.plan([], repository=False)
        self.own_package = False
        self.proves = any(headers.values())
        self.notes = (_NOTE,)
        self._headers = headers
        self._tasks = Tasks()
        self._stack = contextlib.AsyncExitStack()

    def open_package(self) -> bool:
        """Change nothing: the package is somebody else's."""
        return False

    def stand_in(self, host: str, port: int) -> bool:  # noqa: ARG002  the lab's names them
        """Change nothing: what it calls is somebody else's."""
        return False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._tasks)
        self._stack.enter_context(self.witness)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().call_later(LEAVE_S, self._tasks.cancel_all)
        await self._stack.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def start(self, *, with_a: bool) -> AsyncIterator[Sessions]:  # noqa: ARG002  nothing starts
        """Open sessions with it, and end them."""
        url = self.subject.url
        running = Sessions(self.witness, url, self._headers, self._tasks, who="The server")
        self.starts += 1
        try:
            yield running
        finally:
            self.calls += running.calls
            await running.aclose()
