"""What all HTTP connections of one owner have in common: posts, bounded answers, event streams.

Nothing of it (session ids, connections) is ever another user's. Redirects are not followed and no
proxy of the environment is used, so credentials go where the administrator's URL says and nowhere
else (R20). How bytes travel is in `upstream.http1`, what a body holds in `upstream.bodies`.
"""

import asyncio
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.errors import HubError, MissingCredential, Unavailable, UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream.bodies import EVENTS, JSON, Messages, messages_of
from mcphub.upstream.connection import Head, Request
from mcphub.upstream.http1 import Bearer, Client
from mcphub.upstream.lines import NO_HEADERS, Line, LineTooLong, OnEnd, OnLine
from mcphub.upstream.pace import Pace
from mcphub.wire import envelope
from mcphub.wire.arriving import Arriving
from mcphub.wire.codes import HUB_DENIED, HUB_UNAVAILABLE, HUB_UPSTREAM_FAILED
from mcphub.wire.pieces import Pieces, Text, start_of

POST_HEADERS: Final = {"Content-Type": JSON, "Accept": f"{JSON}, {EVENTS}"}
REOPEN_S: Final = (1.0, 5.0, 30.0)
"""Pauses before a stream that ended is opened again."""
MAX_POSTS: Final = 256
"""Requests of one owner to one server at the same time."""
_MOST_IGNORED: Final = 64 * 1024
"""Bytes of a body that nobody reads for which a connection is kept."""
_MARK: Final = secrets.token_urlsafe(16)
"""In errors that the hub itself answers with: no server knows it."""
_WRITTEN: Final = re.compile(rb'\{"jsonrpc":"2\.0",(?:"id":([0-9]+),)?"method":"([^"\\]+)"')
_MOST_WRITTEN: Final = 4096
_RESPONSE: Final = re.compile(rb'\{"jsonrpc":"2\.0","id":([0-9]+),"(?:result|error)":')


class Posting(ABC):
    """A server behind a URL as a pipe of lines: each message is a POST. Implements `lines.Pipe`.

    Args:
        name: Name of the server spec, for error texts.
        url: Where to post.
        headers: Headers of every request: credentials of this user, identity.
        limit: Longest message, in bytes.
        tasks: Where connections are made.
        on_line, on_end: As `upstream.lines.Connect`.
        bearer: Gives the token of each request, where the server has OAuth.
        share: The owner's, of the loop's time.
    """

    has_headers = True
    cancels = False
    """Whether closing a request's connection tells the server that it is cancelled."""
    answers = True
    """Whether what comes back on a POST are messages."""

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        tasks: Tasks,
        on_line: OnLine,
        on_end: OnEnd,
        bearer: Bearer | None = None,
        share: Pace | None = None,
    ) -> None:
        self.name, self.url, self.limit = name, url, limit
        self.on_line = on_line
        self._on_end = on_end
        self._tasks = tasks
        self._posts: dict[bytes, Post] = {}
        self._freed: asyncio.Future[None] | None = None
        self._open = True
        self._http = Client(url, {**headers, **POST_HEADERS}, tasks, bearer, share)

    @property
    def congested(self) -> bool:
        """Whether as many requests are open as may be."""
        return len(self._posts) >= MAX_POSTS

    def write(self, line: Text, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Post one message."""
        if not self._open:
            raise BrokenPipeError
        post = Post(self, *written(line))
        self._posts[post.key] = post
        self._send(post, line, headers)

    async def drain(self) -> None:
        """Wait until one request has ended."""
        while self.congested and self._open:
            if self._freed is None:
                self._freed = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._freed)

    def abandon(self, request_id: int) -> bool:
        """Close the request's connection; returns whether this cancels it in the server's era."""
        post = self._posts.get(b"%d" % request_id)
        if post is not None:
            post.drop()
        return self.cancels

    def close(self, reason: Exception | None = None) -> None:
        """End the connection: open requests are dropped. Idempotent."""
        if not self._open:
            return
        self._open = False
        for post in list(self._posts.values()):
            post.drop()
        self._leave()
        self._on_end(reason)

    def ended(self, post: "Post") -> None:
        """Forget a post that has ended."""
        self._posts.pop(post.key, None)
        if self._freed is not None:
            if not self._freed.done():
                self._freed.set_result(None)
            self._freed = None

    # ------------------------------------------------------------------ what differs

    def _send(self, post: "Post", line: Text, headers: Mapping[str, str]) -> None:
        post.request = self._http.send("POST", post, line, headers)

    def _leave(self) -> None:
        """Tell the server, where there is something to tell, and close the connections."""
        self._http.close()

    def begun(self, post: "Post", head: Head) -> None:  # noqa: B027  most have nothing to do
        """Take the head of an answer that is no refusal."""

    def explains(self, post: "Post", head: Head) -> bool:  # noqa: ARG002
        """Whether a refusal may hold a message that says more."""
        return head.status >= 400 and head.status not in {401, 403}

    @abstractmethod
    def refused(self, post: "Post", found: envelope.Message | None) -> bool:
        """Take a status of 400 and above with the JSON-RPC error in it, if any; whether all is said."""

    def completed(self, post: "Post") -> None:  # noqa: B027  most have nothing to do
        """Take that an answer that was no refusal is complete."""


class Post:
    """One message on its way to a server; takes what comes back. Implements `connection.Taker`.

    Attributes:
        id: Raw id of a request of the hub's, b"" for anything else.
        key: What it is known by while it is open.
        status: Of the answer, 0 before there is one.
    """

    __slots__ = (
        "_answered", "_found", "_ignored", "_messages", "_pipe", "_problem", "id", "key", "method",
        "open", "request", "status",
    )  # fmt: skip

    def __init__(self, pipe: Posting, raw_id: bytes, method: str) -> None:
        self._pipe = pipe
        self.id, self.method = raw_id, method
        self.key = raw_id or b"-%d" % id(self)
        self.request: Request | None = None
        self.status = 0
        self.open = True
        self._answered = False
        self._problem = ""
        self._found: envelope.Message | None = None
        self._ignored = 0
        self._messages: Messages | None = None

    def on_head(self, head: Head) -> None:
        """See `connection.Taker`."""
        self.status = head.status
        if head.status >= 300:
            self._problem = refusal(head.status, head.first(b"www-authenticate"))
        if self._problem and not self._pipe.explains(self, head):
            self.fail(self._problem)
            return
        if not self._problem:
            self._pipe.begun(self, head)
        if self._pipe.answers:
            self._messages = messages_of(head, self._pipe.limit)

    def on_data(self, data: bytes) -> None:
        """See `connection.Taker`."""
        if self._messages is not None:
            try:
                self._take(self._messages.feed(data))
            except LineTooLong as error:
                self._pipe.close(error)
            return
        self._ignored += len(data)
        if self._ignored > _MOST_IGNORED and self.request is not None:
            self.request.close()
            self.on_end(None)

    def on_end(self, error: Exception | None) -> None:
        """See `connection.Taker`."""
        if not self.open:
            return
        if isinstance(error, HubError):
            self._over(denied(self.id, error))
        elif error is not None:
            self.fail(str(error))
        else:
            if self._messages is not None:
                self._take(self._messages.end())
            if self.open:
                self._complete()

    def fail(self, problem: str) -> None:
        """End with an error of the hub's own."""
        text = f"Server '{self._pipe.name}': {problem}"
        data = {"httpStatus": self.status} if self._pipe.answers else None  # 0: not reached
        self._over(envelope.error(self.id, HUB_UPSTREAM_FAILED, text, data))

    def answer(self, members: envelope.Members) -> None:
        """End with what the server said, under the id that it was asked with."""
        self._over(envelope.join(members | {"id": msgspec.Raw(self.id)}))

    def drop(self) -> None:
        """End without a word."""
        self.open = False
        self._pipe.ended(self)
        if self.request is not None:
            self.request.close()

    def _take(self, lines: list[Line]) -> None:
        origin = int(self.id or b"0")
        for line in lines:
            if not self.open:
                return
            if self._problem:
                self._found = self._found or parsed(line)
                continue
            self._answered = self._answered or responds(line, self.id)
            self._pipe.on_line(line, origin)

    def _complete(self) -> None:
        if self._problem:
            found = (
                self._found if self._found is not None and "error" in self._found.members else None
            )
            if self._pipe.refused(self, found):
                self._over(b"")
            elif self.open:
                self.fail(self._problem)
            return
        self._pipe.completed(self)
        if self._answered or not self._pipe.answers or not self.id:
            self._over(b"")
        else:
            self.fail("It closed the connection without an answer.")

    def _over(self, line: bytes) -> None:
        """End; whoever asked gets a line, unless the answer is there already."""
        if self.open:
            wants = bool(self.id) and not self._answered
            self.drop()
            if line and wants:
                self._pipe.on_line(line, 0)


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


def own_error(message: envelope.Message) -> HubError | None:
    """Return the hub's own error that `denied` answered with; None for any error of a server."""
    raw_error = message.members["error"]
    if isinstance(raw_error, Pieces) or _MARK.encode() not in bytes(raw_error):
        return None
    error = message.inner("error")
    data = envelope.object_of(error.get("data"))
    text, hint = envelope.text(error.get("message")), envelope.text(data.get("hint"))
    code = envelope.text(data.get("code"))
    if bytes(error["code"]) == b"%d" % HUB_DENIED:
        return MissingCredential(text, hint=hint, code=code)
    return Unavailable(text, hint=hint, retry_after_s=5)


def changed(name: str) -> UpstreamFailed:
    """Return why a connection ends whose server answers as one of the other era does."""
    return UpstreamFailed(f"Server '{name}' speaks another protocol now.", hint="Call again.")


def written(line: Text) -> tuple[bytes, str]:
    """Return id and method of a message that the hub wrote; no id of anything but a request."""
    found = _WRITTEN.match(start_of(line, _MOST_WRITTEN))
    if found is not None:
        return found[1] or b"", found[2].decode()
    if isinstance(line, Pieces):
        return b"", ""  # its requests begin with what they are: it is an answer
    message = envelope.parse(line)
    return (message.id if message.is_request else b""), message.method


def responds(line: Line, request_id: bytes) -> bool:
    """Whether a line is the response to a request; one that cannot be read ends the request too."""
    found = _RESPONSE.match(line) if isinstance(line, bytes) else None
    if found is not None:
        return found[1] == request_id
    message = parsed(line)
    return message is not None and not message.method and message.id == request_id


def parsed(line: Line) -> envelope.Message | None:
    """Return a line as a message, or None."""
    try:
        return line.message() if isinstance(line, Arriving) else envelope.parse(line)
    except envelope.Malformed:
        return None
