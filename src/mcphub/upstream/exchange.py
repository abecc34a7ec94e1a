"""One request on its way to an upstream and back.

Holds everything that belongs to this request alone: what was asked, the messages that arrived
before the answer, the deadline. It knows neither who called (the relay does) nor how bytes travel
(`upstream.legacy`, `upstream.modern` do).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from mcphub.upstream.outgoing import Outgoing
from mcphub.wire import envelope
from mcphub.wire.envelope import Members, Message
from mcphub.wire.splicing import PlainResult

_MAX_EVENTS: Final = 1000
_MAX_EVENT_BYTES: Final = 8 * 1024 * 1024
_MAX_QUESTIONS: Final = 64


class Exchange:
    """A pending call. Made by an upstream's `send`; read by the relay with `next()`.

    Attributes:
        outgoing: How the request goes.
        upstream_id: The id that the hub chose for the upstream (rule R2).
        progress_token: Where progress goes now; a call that continues may have another.
        deadline: Loop time in seconds after which the sweeper ends it.
        done: The answer or a failure is here.
        armed: The sweeper has told the relay that this call is slow.
        questions: Raw ids of the server's questions that its client has yet to answer.
        asked: How many questions were given a key for a modern client; no key is used twice.
        plain: The answer as it came, when it is a plain result of a tool and nobody had to read it.
        on_wake: Called instead of waking `next()`, or None; must not raise.
        refused: What the server asked in vain, since the client cannot be asked that; or "".
    """

    # what most calls never look at is the class's, and costs an exchange nothing
    armed = False
    asked = 0
    refused = ""
    dropped = 0
    plain: PlainResult | None = None
    on_wake: Callable[[], None] | None = None
    questions: frozenset[bytes] = frozenset()
    _arguments: msgspec.Raw | None = None
    _answer: Message | None = None
    _held = 0
    _wake: asyncio.Future[None] | None = None

    def __init__(
        self,
        outgoing: Outgoing,
        params: Members,
        upstream_id: int,
        started: float,
        arguments: msgspec.Raw | None = None,
    ) -> None:
        self.outgoing = outgoing
        self._params = params
        if arguments is not None:
            self._arguments = arguments
        self.upstream_id = upstream_id
        self.started = started
        self.deadline = started + outgoing.timeout_s
        self.progress_token = outgoing.progress_token
        self.done = False
        self.failure: Exception | None = None
        self._events: deque[Message] | None = None

    @property
    def params(self) -> Members:
        """The caller's parameters, raw members; not to be changed."""
        if self._arguments is None:
            return self._params
        return self._params | {"arguments": self._arguments}

    @property
    def answered(self) -> bool:
        """Whether the answer is here."""
        return self.done and self.failure is None

    @property
    def answer(self) -> Message | None:
        """The answer, None before it is here; one that came unread is read now.

        Raises:
            envelope.Malformed: It is no message.
        """
        if self._answer is None and self.plain is not None:
            self._answer = envelope.parse(self.plain.line)
        return self._answer

    def is_over(self) -> bool:
        """Whether the answer is here, and nothing waits to be returned by `next()` before it."""
        return self.done and self.failure is None and not self._events

    def question(self, message: Message) -> bool:
        """Keep a question for the caller, as long as few enough are open and the bound is kept."""
        if len(self.questions) >= _MAX_QUESTIONS or not self.event(message):
            return False
        self.questions |= {message.id}
        return True

    def event(self, message: Message) -> bool:
        """Keep a notification or a question for the caller; past the bounds it is dropped: False.

        One is kept whatever its size, if nothing else waits.
        """
        size = message.size
        if self._events is None:
            self._events = deque()
        if len(self._events) >= _MAX_EVENTS or (
            self._events and self._held + size > _MAX_EVENT_BYTES
        ):
            self.dropped += 1
            return False
        self._events.append(message)
        self._held += size
        self.wake()
        return True

    def finish(self, answer: Message) -> None:
        """Set the answer."""
        if not self.done:
            self._answer, self.done = answer, True
            self.wake()

    def finish_plain(self, answer: PlainResult) -> None:
        """Set the answer, unread."""
        if not self.done:
            self.plain, self.done = answer, True
            self.wake()

    def move_on(self, now: float) -> None:
        """Give a call that is seen to go on its time anew, within the longest that it may take (MCP timeouts)."""
        most = self.started + self.outgoing.longest_s
        self.deadline = max(self.deadline, min(now + self.outgoing.timeout_s, most))

    def take_reply(self, raw_id: bytes) -> None:
        """Count a question as answered."""
        self.questions -= {raw_id}

    def fail(self, error: Exception) -> None:
        """End without an answer."""
        if not self.done:
            self.failure, self.done = error, True
            self.wake()

    def wake(self) -> None:
        """Let `next()` return, or tell who waits otherwise."""
        if self.on_wake is not None:
            self.on_wake()
        elif self._wake is not None and not self._wake.done():
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
            self._held = 0
            return events
        if self.failure is not None:
            raise self.failure
        return []

    async def settled(self) -> Message:
        """Wait for the answer, whatever comes before it.

        Raises:
            Exception: The failure.
        """
        while (answer := self.answer) is None:
            await self.next()
        return answer
