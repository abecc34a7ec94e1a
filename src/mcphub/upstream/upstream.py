"""The `Upstream` seam: one running server as the data plane sees it, whatever its era.

One upstream belongs to one instance and so to one user (rules R2, R8). The hub owns every id on this
side. What is common to both eras is here: calls in flight, their deadlines, the end of the
connection. What differs are the five methods that `upstream.legacy` and `upstream.modern` implement.

Not here: how bytes travel (`Pipe`), starting and stopping (`spawn`), who may call (`policy`), the
era of the caller (`gateway`).
"""

import asyncio
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from mcphub import __version__
from mcphub.errors import HubError, Unavailable, UpstreamFailed
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.lines import Connect, Line, LineTooLong
from mcphub.upstream.outgoing import Outgoing
from mcphub.upstream.posting import own_error
from mcphub.wire import envelope
from mcphub.wire.arriving import Arriving
from mcphub.wire.codes import Era
from mcphub.wire.envelope import Members, Message
from mcphub.wire.pieces import Raw
from mcphub.wire.splicing import PlainResult, plain_result
from mcphub.wire.translate import added_for_modern

CLIENT_INFO: Final = msgspec.json.encode(
    {"name": "mcphub", "title": "MCPHub", "version": __version__}
)
"""Who the hub says it is, raw."""
NO_OFFERS: Final[Mapping[str, object]] = {}
ASKED_S: Final = 600.0
"""Seconds that a person has to answer a server's question; the call's own limit waits meanwhile."""
SLOW_S: Final = 0.25
"""Seconds after which the relay is told that a call is slow (it then watches for a disconnect)."""
_ID: Final = re.compile(rb'"id"\s*:\s*([0-9]{1,18})\s*[,}]')
_BEFORE_ID: Final = b'{"jsonrpc":"2.0","id":'
_GAP: Final = msgspec.Raw(b"\x00")
"""Stands where the arguments come; JSON has no such byte."""
_MOST_FORMS: Final = 64
_ENDS: Final = 256
"""Bytes at both ends of a message that cannot be read in which its id is looked for."""


class TimedOut(Unavailable):
    """The upstream did not answer in time; the call was cancelled."""

    code = "timeout"


class OpeningRefused(UpstreamFailed):
    """The server answered the opening with an error.

    Attributes:
        number: JSON-RPC error code, 0 for none.
        http_status: Of an answer that holds no message; 0 when the server was not reached, None
            when HTTP has nothing to do with it.
    """

    def __init__(self, message: str, *, number: int = 0, http_status: int | None = None) -> None:
        super().__init__(message)
        self.number = number
        self.http_status = http_status


class Form(NamedTuple):
    """How calls are written that differ in their ids and arguments only.

    Attributes:
        params: The caller's, without arguments.
        before: From behind the id to the arguments.
        after: From behind the arguments to the end.
    """

    outgoing: Outgoing
    params: Members
    before: bytes
    after: bytes
    headers: Mapping[str, str]


class Upstream(ABC):
    """The connection to one running server.

    Life cycle: made with a pipe; `open()` once; `send()` for calls; `close()`.

    Args:
        name: Name of the server spec, for error texts.
        connect: Opens the pipe, given what takes a line and what takes the end.
        on_notification: Gets every notification that belongs to no single exchange.
        on_end: Called once when nothing more comes from the server.
        one_owner: All calls are of one user. If not, what names no call reaches no call.
        roots: The server may ask for a client's directories.
        offers: Further capabilities that the hub has towards this server, where it says them once.
        first_id: The id of its first request.

    Attributes:
        opening: The server's InitializeResult, raw; for a modern server in the same form.
    """

    era: Era

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        on_notification: Callable[[Message], None],
        on_end: Callable[[], None],
        one_owner: bool = True,
        roots: bool = False,
        offers: Mapping[str, object] = NO_OFFERS,
        first_id: int = 1,
    ) -> None:
        self.name = name
        self.opening = b""
        self.noise = 0
        self.one_owner = one_owner
        self.roots = roots
        self.offers = offers
        self._asks_next: Message | None = None  # a question that waits for the next call
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, Exchange] = {}
        self._forms: dict[bytes, Form] = {}
        self._last_id = first_id - 1
        self._ended: Exception | None = None
        self._on_notification = on_notification
        self._on_end = on_end
        self._pipe = connect(self._line, self._end)

    # ------------------------------------------------------------------ the five methods

    @abstractmethod
    async def open(self, timeout_s: float) -> bytes:
        """Make the server ready for calls; returns `opening`.

        Raises:
            OpeningRefused: It answered an error, or speaks no revision that we know.
            UpstreamFailed: It ended.
            TimedOut: It did not answer in `timeout_s` seconds.
        """

    @abstractmethod
    def reply(self, raw_id: bytes, members: Members) -> None:
        """Answer a question of the server: `result` or `error`, under the question's own id."""

    @abstractmethod
    def cancel(self, exchange: Exchange) -> None:
        """Give up a call: tell the server and forget the exchange. Nothing, when it is answered."""

    @abstractmethod
    async def subscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource; returns `result` or `error` of the answer.

        Raises:
            HubError: The server is gone or did not answer.
        """

    @abstractmethod
    async def unsubscribe(self, uri: str, timeout_s: float) -> Members:
        """Ask for updates of a resource no longer; as `subscribe`."""

    # ------------------------------------------------------------------ common to both eras

    @functools.cached_property
    def server_info(self) -> bytes:
        """Raw `serverInfo` of the opening, b"" when there is none."""
        return envelope.one_line(bytes(envelope.object_of(self.opening).get("serverInfo", b"")))

    @functools.cached_property
    def added_for_modern(self) -> bytes:
        """Raw members of a modern result that a legacy server's result has not."""
        return added_for_modern(self.server_info)

    @property
    def pending(self) -> int:
        """Calls in flight."""
        return len(self._pending)

    async def send(self, outgoing: Outgoing, params: Members) -> Exchange:
        """Send a request; returns as soon as it is written or queued.

        Raises:
            UpstreamFailed: The server is gone.
        """
        while (exchange := self.send_now(outgoing, params)) is None:
            await self.ready(outgoing, params)
        return exchange

    async def ready(self, outgoing: Outgoing, params: Members) -> None:
        """Wait for what `send_now` would have to wait for; raises a `HubError` to send nothing."""
        if outgoing.tell is not None and not self._is_ready(outgoing, params):
            await outgoing.tell.prepare(self._onward(outgoing, params))
        await self._pipe.drain()

    def send_now(self, outgoing: Outgoing, params: Members) -> Exchange | None:
        """Send a request as `send` does; None, and nothing is done, when that would have to wait.

        Raises:
            UpstreamFailed: The server is gone.
        """
        self._check()
        if self._pipe.congested or not self._is_ready(outgoing, params):
            return None
        exchange = Exchange(outgoing, params, self._next_id(), self._loop.time())
        self._write(exchange, params)
        return exchange

    def form(self, outgoing: Outgoing, params: Members) -> Form | None:
        """Return how a call is written, for others that differ in their arguments only.

        None when each has to be written for itself: it says who its user is, or has progress.
        """
        if outgoing.tell is not None or outgoing.progress_token:
            return None
        kept = {name: raw for name, raw in params.items() if name != "arguments"}
        given = {name: _GAP if name == "arguments" else raw for name, raw in params.items()}
        body, headers = self._written(Exchange(outgoing, given, 0, 0.0), given)
        line = bytes(envelope.request(0, outgoing.method, body))
        before, _, after = line[len(_BEFORE_ID) + 1 :].partition(bytes(_GAP))
        form = Form(outgoing, kept, before, after, headers)
        known = self._forms.get(before)
        if known == form:
            return known  # of another caller: one for all of them stays in the processor's caches
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        self._forms[before] = form
        return form

    def fill(self, form: Form, arguments: msgspec.Raw) -> Exchange | None:
        """Send a call as `send_now` does that would be written as `form` was; never raises.

        None, and nothing is done, also when the server's question waits for the next call.

        Args:
            form: Of this upstream.
            arguments: Of this call, without a line break; b"" for none, as in the form's.
        """
        if self._ended is not None or self._asks_next is not None or self._pipe.congested:
            return None
        number = self._last_id = self._last_id + 1
        exchange = Exchange(
            form.outgoing, form.params, number, self._loop.time(), arguments or None
        )
        line = b"".join((_BEFORE_ID, b"%d" % number, form.before, arguments, form.after))
        self._pending[number] = exchange
        try:
            self._pipe.write(line, form.headers)
        except BrokenPipeError:
            del self._pending[number]
            return None
        return exchange

    def sweep(self, now: float) -> None:
        """End exchanges past their deadline, tell slow ones; called by the pool's sweeper."""
        for exchange in list(self._pending.values()):
            if now >= exchange.deadline:
                self.cancel(exchange)
                seconds = exchange.deadline - exchange.started
                exchange.fail(
                    TimedOut(
                        f"Server '{self.name}' did not answer {exchange.outgoing.method} within "
                        f"{seconds:g} s.",
                        hint="Try again, or ask an administrator to raise timeoutSeconds of this server.",
                    )
                )
            elif not exchange.armed and now - exchange.started >= SLOW_S:
                exchange.armed = True
                exchange.wake()

    def fail_all(self, error: Exception) -> None:
        """Fail every call in flight, and every later one, with `error`."""
        if self._ended is None:
            self._ended = error
        pending, self._pending = self._pending, {}
        for exchange in pending.values():
            exchange.fail(error)

    def close(self) -> None:
        """Stop using the pipes. Idempotent; the process is stopped by its spawner."""
        self._pipe.close()

    # ------------------------------------------------------------------ for the eras

    @abstractmethod
    def _onward(self, outgoing: Outgoing, params: Members) -> Members:
        """Return params as the server gets them, apart from `_meta`."""

    @abstractmethod
    def _as_written(
        self, exchange: Exchange, onward: Members, meta: Members, headers: Mapping[str, str]
    ) -> tuple[Members, Mapping[str, str]]:
        """Return params with their `_meta`, and the HTTP headers that go with them.

        Args:
            exchange: Of the request.
            onward: From `_onward`.
            meta: Keys of `_meta` that the hub adds.
            headers: Those that it adds.
        """

    @abstractmethod
    def _ends(self, exchange: Exchange, plain: PlainResult) -> bool:
        """Whether a call is over with this result, so that nobody has to read it."""

    @abstractmethod
    def _answered(self, message: Message) -> None:
        """Take a response."""

    @abstractmethod
    def _asked(self, message: Message, origin: int) -> None:
        """Take a request of the server."""

    @abstractmethod
    def _logged(self, message: Message, origin: int) -> None:
        """Take a log message."""

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _is_ready(self, outgoing: Outgoing, params: Members) -> bool:
        """Whether nothing has to be prepared before a request is written."""
        return outgoing.tell is None or outgoing.tell.is_ready(self._onward(outgoing, params))

    def _written(self, exchange: Exchange, params: Members) -> tuple[Members, Mapping[str, str]]:
        """Return params in the server's era and the HTTP headers that go with them."""
        onward = self._onward(exchange.outgoing, params)
        meta, headers = exchange.outgoing.additions(onward)
        return self._as_written(exchange, onward, meta, headers)

    def _write(self, exchange: Exchange, params: Members) -> None:
        body, headers = self._written(exchange, params)
        self._pending[exchange.upstream_id] = exchange
        line = envelope.request(exchange.upstream_id, exchange.outgoing.method, body)
        try:
            self._pipe.write(line, headers)
        except BrokenPipeError:
            self._pending.pop(exchange.upstream_id, None)
            self._check()
            raise UpstreamFailed(f"Server '{self.name}' ended.") from None

    def _notify(self, method: str, params: bytes | None) -> None:
        """Send a notification; one to a server that is gone is dropped."""
        if self._ended is None:
            try:
                self._pipe.write(envelope.notification(method, params))
            except BrokenPipeError:
                return

    async def _opened(self, exchange: Exchange) -> Raw:
        """Return the result of the opening.

        Raises:
            OpeningRefused: It is an error.
        """
        answer = await exchange.settled()
        if "result" in answer.members:
            return answer.members["result"]
        error = envelope.object_of(answer.members.get("error"))
        data = envelope.object_of(error.get("data"))
        text = envelope.text(error.get("message"))[:300]
        if "httpStatus" in data:
            raise OpeningRefused(text, http_status=number(bytes(data["httpStatus"])))
        raise OpeningRefused(
            f"Server '{self.name}' refused {exchange.outgoing.method}: {text}",
            number=number(bytes(error.get("code", b"0"))),
        )

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended

    def _end(self, reason: Exception | None) -> None:
        if isinstance(reason, LineTooLong):
            self.fail_all(
                UpstreamFailed(
                    f"Server '{self.name}' sent a message over the size limit and was stopped.",
                    hint="An administrator can raise limits.line_bytes.",
                )
            )
        elif isinstance(reason, HubError):
            self.fail_all(reason)
        self._on_end()

    def _line(self, line: Line, origin: int = 0) -> None:
        """Take one message; a tool's plain result stays unread, unless it is large and was read on its way.

        Args:
            line: The message.
            origin: The id of the request whose stream it came on, 0 if unknown.
        """
        if isinstance(line, Arriving):
            try:
                message = line.message()
            except envelope.Malformed as error:
                self._unreadable(*line.ends(), origin, error)
            else:
                self._take(message, origin)
            return
        plain = plain_result(line)
        if plain is not None:
            exchange = self._pending.get(plain.id)
            if (
                exchange is not None
                and exchange.outgoing.method == "tools/call"
                and self._ends(exchange, plain)
            ):
                del self._pending[plain.id]
                exchange.finish_plain(plain)
                return
        elif not line.strip():
            return
        try:
            message = envelope.parse(line)
        except envelope.Malformed as error:
            whole = envelope.without_halves(line)
            if whole != line:
                self._line(whole, origin)
            else:
                self._unreadable(line, line, origin, error)
            return
        self._take(message, origin)

    def _take(self, message: Message, origin: int) -> None:
        """Take one message that was read."""
        if not message.method:
            self._responded(message)
        elif message.id:
            self._asked(message, origin)
        elif message.method == "notifications/progress":
            self._progress(message)
        elif message.method == "notifications/message":
            self._logged(message, origin)
        else:
            self._told(message)

    def _responded(self, message: Message) -> None:
        """Take a response; what the hub itself says in its place fails the call, and nobody reads its mark."""
        own = own_error(message) if "error" in message.members else None
        exchange = self._pending.get(number(message.id)) if own is not None else None
        if own is None or exchange is None:
            self._answered(message)
        else:
            self._forget(exchange)
            exchange.fail(own)

    def _forget(self, exchange: Exchange) -> None:
        """Forget a call that has ended."""
        self._pending.pop(exchange.upstream_id, None)

    def _unreadable(
        self, first: bytes, last: bytes, origin: int, error: envelope.Malformed
    ) -> None:
        """Count what is no message (some servers print a banner); a call that it answers has failed.

        Args:
            first: Where it begins.
            last: How it ends; the same when it is whole.
            origin: As `_line`.
            error: Why it is none.
        """
        self.noise += 1
        ends = (first[:_ENDS], last[-_ENDS:])
        named = next((found for end in ends if (found := _ID.search(end)) is not None), None)
        said = b'"jsonrpc"' in first or b'"jsonrpc"' in last
        answered = number(named[1]) if named is not None and said else origin
        exchange = self._pending.pop(answered, None)
        if exchange is not None:
            text = f"Server '{self.name}' sent an answer that cannot be read: {error.reason}"
            exchange.fail(UpstreamFailed(text))

    def _told(self, message: Message) -> None:
        """Take any other notification."""
        self._on_notification(message)

    def _progress(self, message: Message) -> None:
        params = message.inner("params")
        exchange = self._pending.get(number(bytes(params.get("progressToken", b""))))
        if exchange is None or not exchange.progress_token:
            return
        exchange.move_on(self._loop.time())
        params["progressToken"] = msgspec.Raw(exchange.progress_token)
        message.members["params"] = envelope.object_raw(params)
        exchange.event(message)


def number(raw: bytes) -> int:
    """Return the value of a raw JSON integer; -1 for anything else."""
    try:
        return int(raw)
    except ValueError:
        return -1
