"""A server of the first HTTP transport (2024-11-05) as a pipe of lines: one event stream of one user.

The stream says where to post; answers come on the stream. The address must be of the same origin as
the administrator's URL, because the user's credentials go there (R20).
Source: MCP 2024-11-05 basic/transports §HTTP with SSE.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urljoin

from yarl import URL

from mcphub.errors import HubError, UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream import posting
from mcphub.upstream.bodies import EVENTS, Stream, on_one_line
from mcphub.upstream.connection import Head
from mcphub.upstream.http1 import Bearer
from mcphub.upstream.lines import Line, LineTooLong, OnEnd, OnLine
from mcphub.upstream.pace import Pace
from mcphub.upstream.posting import Post, Posting
from mcphub.upstream.upstream import OpeningRefused
from mcphub.wire import envelope
from mcphub.wire.pieces import Text


class SsePipe(Posting):
    """See `posting.Posting`; `url` is the stream's."""

    answers = False

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
        super().__init__(name, url, headers, limit, tasks, on_line, on_end, bearer, share)
        self._target = ""
        self._waiting: list[tuple[Post, Text, Mapping[str, str]]] = []
        self._stream = Stream(limit, self._streamed)
        self._listening = tasks.start("upstream.listen", self._listen())

    def abandon(self, request_id: int) -> bool:  # noqa: ARG002
        """Do nothing: the answer would come on the stream and is dropped there."""
        return False

    def explains(self, post: Post, head: Head) -> bool:  # noqa: ARG002
        """A status says it all."""
        return False

    def refused(self, post: Post, found: envelope.Message | None) -> bool:  # noqa: ARG002
        """Never called: nothing explains a refusal."""
        return False

    def _send(self, post: Post, line: Text, headers: Mapping[str, str]) -> None:
        """Post one message, as soon as the stream has said where."""
        if not self._target:
            self._waiting.append((post, line, headers))
            return
        post.request = self._http.send("POST", post, line, headers, self._target)

    def _leave(self) -> None:
        self._waiting.clear()
        if self._listening is not asyncio.current_task():
            self._listening.cancel()
        self._http.close()

    async def _listen(self) -> None:
        request = self._http.send("GET", self._stream, headers={"Accept": EVENTS})
        try:
            ended = await self._stream.ended
        finally:
            request.close()
        self.close(self._reason(ended))

    def _reason(self, ended: Exception | None) -> Exception:
        status = self._stream.status
        if isinstance(ended, HubError | LineTooLong):
            return ended
        if status not in {0, 200}:
            text = posting.refusal(status) or f"It answered HTTP {status}."
            return OpeningRefused(f"Server '{self.name}': {text}", http_status=status)
        if ended is not None and not status:
            return UpstreamFailed(f"Server '{self.name}': {ended}")
        return UpstreamFailed(f"Server '{self.name}' closed its stream.", hint="Call again.")

    def _streamed(self, kind: str, data: Line) -> None:
        if kind == "message":
            self.on_line(on_one_line(data), 0)
        elif kind == "endpoint" and not self._target and isinstance(data, bytes):
            self._found(data.decode("latin-1").strip())

    def _found(self, said: str) -> None:
        """Take the address that messages go to."""
        try:
            endpoint = URL(urljoin(self.url, said))
            origin = endpoint.origin()
        except ValueError:
            origin = endpoint = None
        if endpoint is None or origin != URL(self.url).origin():
            text = f"Server '{self.name}' wants messages sent to another host."
            self._stream.on_end(OpeningRefused(text))
            return
        self._target = endpoint.raw_path_qs
        for waiting in self._waiting:
            if waiting[0].open:
                self._send(*waiting)
        self._waiting.clear()
