"""One request on its way to an upstream and back.

Holds everything that belongs to this request alone: the caller's progress token, the messages that
arrived before the answer, the deadline. It knows neither who called (the relay does) nor how bytes
travel (`upstream.legacy` does).
"""

import asyncio
from collections import deque
from typing import Final

from mcphub.wire.envelope import Message

_MAX_EVENTS: Final = 1000
_MAX_QUESTIONS: Final = 64


class Exchange:
    """A pending call. Made by an upstream's `send`; read by the relay with `next()`.

    Attributes:
        upstream_id: The id that the hub chose for the upstream (rule R2).
        method: JSON-RPC method.
        wants_log: Whether `notifications/message` may be delivered on this request's stream.
        asks: Methods that the server may ask the calling client in the middle of this call.
        deadline: Loop time in seconds after which the sweeper ends it.
        armed: The sweeper has told the relay that this call is slow.
        questions: Raw ids of the server's questions that its client has yet to answer.
        refused: Method that the server asked in vain, since the client cannot be asked that; or "".
    """

    __slots__ = (
        "_events", "_wake", "answer", "armed", "asks", "deadline", "dropped", "failure", "method",
        "progress_token", "questions", "refused", "started", "upstream_id", "wants_log",
    )  # fmt: skip

    def __init__(
        self, upstream_id: int, method: str, *, started: float, deadline: float, progress_token: bytes = b"",
        wants_log: bool = False, asks: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.upstream_id = upstream_id
        self.method = method
        self.started = started
        self.deadline = deadline
        self.progress_token = progress_token
        self.wants_log = wants_log
        self.armed = False
        self.asks = asks
        self.questions: set[bytes] = set()
        self.refused = ""
        self.dropped = 0
        self.answer: Message | None = None
        self.failure: Exception | None = None
        self._events: deque[Message] = deque()
        self._wake: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """Whether the answer or a failure is here."""
        return self.answer is not None or self.failure is not None

    def question(self, message: Message) -> bool:
        """Keep a question for the caller, as long as few enough are open and the bound is kept."""
        if len(self.questions) >= _MAX_QUESTIONS or not self.event(message):
            return False
        self.questions.add(message.id)
        return True

    def event(self, message: Message) -> bool:
        """Keep a notification or a question for the caller; past the bound it is dropped: False."""
        if len(self._events) >= _MAX_EVENTS:
            self.dropped += 1
            return False
        self._events.append(message)
        self.wake()
        return True

    def finish(self, answer: Message) -> None:
        """Set the answer."""
        if not self.done:
            self.answer = answer
            self.wake()

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        if not self.done:
            self.failure = error
            self.wake()

    def wake(self) -> None:
        """Let `next()` return."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def next(self) -> list[Message]:
        """Wait for something to happen and return the notifications so far; then look at `done`.

        Raises:
            Exception: The failure, once all notifications before it were returned.
        """
        if not self._events and not self.done:
            self._wake = asyncio.get_running_loop().create_future()
            try:
                await self._wake
            finally:
                self._wake = None
        if self._events:
            events = list(self._events)
            self._events.clear()
            return events
        if self.failure is not None:
            raise self.failure
        return []
