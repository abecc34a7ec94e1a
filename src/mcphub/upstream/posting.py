"""What all HTTP connections of one owner have in common: an own client, bounded answers, event streams.

Nothing of it (cookies, session ids, TCP connections) is ever another user's. Redirects are not
followed and no proxy of the environment is used, so credentials go where the administrator's URL
says and nowhere else (R20).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol

import aiohttp
import msgspec

from mcphub.errors import HubError, MissingCredential, Unavailable, UpstreamFailed
from mcphub.secret import Secret
from mcphub.upstream.lines import LineTooLong
from mcphub.wire import envelope, sse
from mcphub.wire.codes import HUB_DENIED, HUB_UNAVAILABLE

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream"
POST_HEADERS: Final = {"Content-Type": JSON, "Accept": f"{JSON}, {EVENTS}"}
REOPEN_S: Final = (1.0, 5.0, 30.0)
"""Pauses before a stream that ended is opened again."""
MAX_POSTS: Final = 256
"""Requests of one owner to one server at the same time."""
_CONNECT_S: Final = 10.0
_CHUNK: Final = 64 * 1024
_MARK: Final = secrets.token_urlsafe(16)
"""In errors that the hub itself answers with: no server knows it."""

Failures: Final = (aiohttp.ClientError, TimeoutError, OSError)
"""What a request raises when the server cannot be reached."""


class Bearer(Protocol):
    """Gives the access token of one owner for one server, and learns when it is refused."""

    async def token(self) -> Secret:
        """Return one that is valid now.

        Raises:
            HubError: There is none.
        """
        ...

    async def refused(self, token: Secret, status: int, challenges: tuple[str, ...]) -> bool:
        """Take a refusal (401 or 403) with its `WWW-Authenticate` headers; whether to try again.

        Raises:
            HubError: It is of no use before the owner has done something.
        """
        ...

    def rejected(self) -> HubError:
        """Return the error for a new token that is refused again."""
        ...


def client(headers: Mapping[str, str], bearer: Bearer | None = None) -> aiohttp.ClientSession:
    """Return the HTTP client of one owner; with a `bearer`, each request carries its token."""

    async def authorized(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        assert bearer is not None
        token = await bearer.token()
        request.headers["Authorization"] = f"Bearer {token.reveal()}"
        response = await send(request)
        if response.status not in {401, 403}:
            return response
        try:
            challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
            if not await bearer.refused(token, response.status, challenges):
                return response
        except BaseException:
            response.close()
            raise
        response.close()
        request.headers["Authorization"] = f"Bearer {(await bearer.token()).reveal()}"
        response = await send(request)
        if response.status == 401:
            response.close()
            raise bearer.rejected()
        return response

    return aiohttp.ClientSession(
        headers=headers,
        middlewares=() if bearer is None else (authorized,),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=0),
        auto_decompress=True,
        trust_env=False,
    )


class Posts:
    """The requests of a connection that are open now, by the raw id of their message."""

    def __init__(self) -> None:
        self._open: dict[bytes, asyncio.Task[None]] = {}

    @property
    def congested(self) -> bool:
        """Whether as many are open as may be."""
        return len(self._open) >= MAX_POSTS

    def add(self, key: bytes, task: "asyncio.Task[None]") -> None:
        """Keep an open request until it ends."""
        self._open[key] = task
        task.add_done_callback(lambda _: self._open.pop(key, None))

    def drop(self, request_id: int) -> None:
        """Close the connection of a request."""
        task = self._open.pop(b"%d" % request_id, None)
        if task is not None:
            task.cancel()

    def drop_all(self) -> None:
        """Close them all."""
        for task in list(self._open.values()):
            task.cancel()
        self._open.clear()

    async def one_ends(self) -> None:
        """Wait until one of them has ended."""
        if self._open:
            await asyncio.wait(list(self._open.values()), return_when=asyncio.FIRST_COMPLETED)


def refusal(status: int, challenge: str = "") -> str:
    """Return what a status says that holds no message, or ""; `challenge` is `WWW-Authenticate`."""
    if status == 401 and "resource_metadata" in challenge:
        return (
            "It requires that each user logs in there (OAuth, HTTP 401). An administrator writes "
            '"oauth": {} into its settings, instead of other credentials.'
        )
    if status in {401, 403}:
        return (
            f"It refused your credentials (HTTP {status}). Set them again: "
            f"mcphub credential list shows which there are."
        )
    return f"It answered HTTP {status}." if status >= 300 else ""


def denied(raw_id: bytes, error: HubError) -> bytes:
    """Return the answer to a request that could not be sent for want of a token; see `own_error`."""
    number = HUB_DENIED if isinstance(error, MissingCredential) else HUB_UNAVAILABLE
    data = {"code": error.code, "hint": error.hint, "mark": _MARK}
    return envelope.error(raw_id, number, error.message, data)


def own_error(raw_error: msgspec.Raw) -> HubError | None:
    """Return the hub's own error that `denied` answered with; None for any error of a server."""
    if _MARK.encode() not in bytes(raw_error):
        return None
    error = envelope.object_of(raw_error)
    data = envelope.object_of(error.get("data"))
    text, hint = envelope.text(error.get("message")), envelope.text(data.get("hint"))
    code = envelope.text(data.get("code"))
    if bytes(error["code"]) == b"%d" % HUB_DENIED:
        return MissingCredential(text, hint=hint, code=code)
    return Unavailable(text, hint=hint, retry_after_s=5)


def changed(name: str) -> UpstreamFailed:
    """Return why a connection ends whose server answers as one of the other era does."""
    return UpstreamFailed(f"Server '{name}' speaks another protocol now.", hint="Call again.")


def key_of(message: envelope.Message, line: bytes) -> bytes:
    """Return what an open request is known by."""
    return message.id if message.is_request else b"-%d" % id(line)


def origin_of(message: envelope.Message) -> int:
    """Return the id of the hub's own request; 0 for anything that is none."""
    return int(message.id) if message.is_request and message.id.isdigit() else 0


def answers(line: bytes, request_id: bytes) -> bool:
    """Whether a line is the response to a request."""
    try:
        message = envelope.parse(line)
    except envelope.Malformed:
        return False
    return not message.method and message.id == request_id


async def messages(response: aiohttp.ClientResponse, limit: int) -> AsyncIterator[bytes]:
    """Yield the messages of a response, each on one line, from JSON or an event stream.

    Raises:
        LineTooLong: One is over `limit` bytes.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == EVENTS:
        async for name, data in events(response.content, limit):
            if name == "message":
                yield envelope.one_line(data)
    elif kind == JSON:
        body = await whole(response.content, limit)
        try:
            batch = envelope.split_batch(body) if body else None
        except envelope.Malformed:
            batch = None  # whoever takes it says what is wrong with it
        for raw in [body] if batch is None else batch:
            if bytes(raw).strip():
                yield envelope.one_line(bytes(raw))


async def error_in(response: aiohttp.ClientResponse, limit: int) -> envelope.Message | None:
    """Return the JSON-RPC error that comes with a status of 400 and above, or None.

    Raises:
        LineTooLong: The body is over `limit` bytes.
    """
    async for line in messages(response, limit):
        try:
            found = envelope.parse(line)
        except envelope.Malformed:
            return None
        return found if "error" in found.members else None
    return None


async def whole(content: aiohttp.StreamReader, limit: int) -> bytes:
    """Return a whole body.

    Raises:
        LineTooLong: It is over `limit` bytes.
    """
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(_CHUNK):
        size += len(part)
        if size > limit:
            raise LineTooLong
        parts.append(part)
    return b"".join(parts)


async def events(content: aiohttp.StreamReader, limit: int) -> AsyncIterator[tuple[str, bytes]]:
    """Yield (type, data) of the events of a stream.

    Raises:
        LineTooLong: One is over `limit` bytes.
    """
    reader = sse.EventReader(limit)
    async for part in content.iter_chunked(_CHUNK):
        try:
            found = reader.feed(part)
        except sse.EventTooLong:
            raise LineTooLong from None
        for event in found:
            yield event
