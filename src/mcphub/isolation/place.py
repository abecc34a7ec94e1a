"""`Place`: what every place has in which two users meet a server; the base of the three labs."""

import asyncio
import contextlib
from types import TracebackType
from typing import Final, Self

from mcphub.isolation.backends import Backend
from mcphub.isolation.backends.detect import Need
from mcphub.isolation.canaries import Canaries
from mcphub.isolation.credentials import Disguise
from mcphub.isolation.subject import Subject
from mcphub.isolation.territory import Territory
from mcphub.isolation.witness.server import Witness
from mcphub.tasks import Tasks

_LEAVE_S: Final = 15.0  # that connections have to be closed in the end
_BARE: Final = Disguise((), {}, ())


class Place:
    """An async context manager; each kind has a `start` that yields the users' sessions.

    Args:
        subject: What is checked.
        witness: Stands in for HTTP services.
        secrets: What the witness looks for.
        territory: Whose files are where.
        disguise: The launch line with sentinels.

    Attributes:
        behind_hub: The users come through a hub.
        starts_anew: Each start is a fresh process.
        proves: The users prove who they are, and nothing else has to be tried.
        notes: What the report says of it.
        starts: Processes started so far.
        calls: Calls so far, of all processes that have ended.
        served: Databases that the launch line does not name, which a tool can be told of.
        own_package: Each start has a fresh copy of the package's directory that it may write to.
        wrote_package: It did write there.
    """

    behind_hub = False
    starts_anew = True
    proves = False

    def __init__(
        self,
        subject: Subject,
        witness: Witness,
        secrets: Canaries[str],
        territory: Territory,
        disguise: Disguise = _BARE,
    ) -> None:
        self.subject, self.witness, self.secrets = subject, witness, secrets
        self.territory, self.disguise = territory, disguise
        self.notes: tuple[str, ...] = ()
        self.backends: list[Backend] = []
        self.served: list[Need] = []
        self.starts = self.calls = 0
        self.own_package = False
        self.wrote_package = False
        self._tasks = Tasks()
        self._stack = contextlib.AsyncExitStack()

    def open_package(self) -> bool:
        """Let later starts write beside the server's code; returns whether that is anything new."""
        return False

    def close_package(self) -> bool:
        """Do without a copy that cannot be made; returns whether one was opened by `open_package`."""
        return False

    def stand_in(self, host: str, port: int) -> bool:  # noqa: ARG002  for those that can
        """Let later starts find the stand-in at a local address; returns whether that is anything new."""
        return False

    async def serve(self, kind: str) -> bool:  # noqa: ARG002  for those that can
        """Let later starts find a database of a kind at its usual port; returns whether that is anything new."""
        return False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._tasks)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.get_running_loop().call_later(_LEAVE_S, self._tasks.cancel_all)
        await self._stack.__aexit__(kind, error, trace)
