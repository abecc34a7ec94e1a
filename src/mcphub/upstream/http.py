"""A legacy Streamable HTTP server as a pipe of lines: one connection pool and session for one user.

Each message is a POST; what comes back, as JSON or as an event stream, is handed on line by line, as
from a process. It lives and dies with the instance.

Not here: headers with identity or credentials (`spawn.launching`), JSON-RPC (`upstream.legacy`).
Source: MCP 2025-11-25 transports §Streamable HTTP.
"""

import asyncio
from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.upstream import posting
from mcphub.upstream.bodies import EVENTS, Stream, on_one_line
from mcphub.upstream.connection import Head
from mcphub.upstream.lines import Line
from mcphub.upstream.posting import Post, Posting
from mcphub.wire import envelope, translate
from mcphub.wire.codes import LATEST_LEGACY, MODERN_ERRORS

_CLOSE_S: Final = 2.0


class HttpPipe(Posting):
    """See `posting.Posting`. Abandoning a request cancels nothing in this era."""

    _session = ""
    _stream: asyncio.Task[None] | None = None

    def begun(self, post: Post, head: Head) -> None:
        """Take the session from the answer to `initialize`."""
        if post.method != "initialize":
            return
        given = head.first(b"mcp-session-id")
        own = {"MCP-Protocol-Version": LATEST_LEGACY}
        if given and len(given) <= 1024 and given.isprintable():
            self._session = own["Mcp-Session-Id"] = given
        self._http.always(own)

    def explains(self, post: Post, head: Head) -> bool:
        """An opening is refused by its status alone."""
        if head.status == 404 and self._session:
            self.close(
                UpstreamFailed(f"Server '{self.name}' ended the session.", hint="Call again.")
            )
        return super().explains(post, head) and post.method != "initialize"

    def refused(self, post: Post, found: envelope.Message | None) -> bool:
        """Hand on the JSON-RPC error; what a modern server says ends the connection."""
        if found is None:
            return False
        if translate.code_of(found.inner("error")) in MODERN_ERRORS:
            self.close(posting.changed(self.name))
        else:
            post.answer(found.members)
        return True

    def completed(self, post: Post) -> None:
        """Listen to the server once it is open."""
        if post.method == "notifications/initialized":
            self._stream = self._tasks.start("upstream.listen", self._listen())

    async def _listen(self) -> None:
        """Keep the server's GET stream open, where it has one."""
        for pause in (0.0, *posting.REOPEN_S):
            await asyncio.sleep(pause)
            stream = Stream(self.limit, self._streamed)
            request = self._http.send("GET", stream, headers={"Accept": EVENTS})
            try:
                await stream.ended
            finally:
                request.close()
            if stream.status not in {0, 200}:
                return

    def _streamed(self, kind: str, data: Line) -> None:
        if kind == "message":
            self.on_line(on_one_line(data), 0)

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
        self._tasks.start("upstream.close", self._end_session())

    async def _end_session(self) -> None:
        if self._session:
            told = Stream(self.limit, lambda _kind, _data: None)
            request = self._http.send("DELETE", told)
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await told.ended
            except TimeoutError:
                pass
            finally:
                request.close()
        self._http.close()
