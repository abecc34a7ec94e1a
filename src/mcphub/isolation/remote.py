"""`RemoteLab`: a server that runs elsewhere, in the form of a `Lab`; sessions are the only separation.

Nothing can be started anew, no file, credential or connection of it can be looked at. What remains is
proof by canaries: what A gave it and B gets. A clean result says so.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from mcphub.isolation.canaries import Canaries
from mcphub.isolation.place import Place
from mcphub.isolation.sessions import Sessions
from mcphub.isolation.subject import Subject
from mcphub.isolation.territory import Territory
from mcphub.isolation.witness.server import Witness

_NOTE: Final = (
    "It was checked where it runs: what shows only in a fresh process (counters, current places, caches, "
    "credentials it sends on) was not looked for. Check the command that starts it for that."
)


class RemoteLab(Place):
    """A running server and two users.

    Args:
        subject: Its name and URL.
        directory: Private, empty directory.
        headers: User -> what that user really proves; may be empty.
    """

    starts_anew = False

    def __init__(
        self, subject: Subject, directory: Path, headers: Mapping[str, Mapping[str, str]]
    ) -> None:
        known: Canaries[str] = Canaries()
        witness = Witness(directory / "witness", known)
        super().__init__(subject, witness, known, Territory.plan([], repository=False))
        self.proves = any(headers.values())
        self.notes = (_NOTE,)
        self._headers = headers

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._stack.enter_context(self.witness)
        return self

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
