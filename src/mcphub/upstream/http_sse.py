"""A server of the first HTTP transport (2024-11-05) as a pipe of lines: one event stream of one user.

The stream says where to post; answers come on the stream. The address must be of the same origin as
the administrator's URL, because the user's credentials go there (R20).
Source: MCP 2024-11-05 basic/transports §HTTP with SSE.
"""

import asyncio
from collections.abc import Mapping
from urllib.parse import urljoin, urlsplit

from mcphub.errors import HubError, UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream import posting
from mcphub.upstream.lines import NO_HEADERS, LineTooLong, OnEnd, OnLine
from mcphub.upstream.upstream import OpeningRefused
from mcphub.wire import envelope
from mcphub.wire.codes import HUB_UPSTREAM_FAILED


class SsePipe:
    """Implements `upstream.lines.Pipe`. Arguments as `upstream.http.HttpPipe`; `url` is the stream's."""

    has_headers = True

    def __init__(
        self,
        name: str,
        url: str,
        headers: Mapping[str, str],
        limit: int,
        tasks: Tasks,
        on_line: OnLine,
        on_end: OnEnd,
        bearer: posting.Bearer | None = None,
    ) -> None:
        self._name, self._url, self._limit = name, url, limit
        self._tasks = tasks
        self._on_line, self._on_end = on_line, on_end
        self._posts = posting.Posts()
        self._open = True
        self._endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._http = posting.client(headers, bearer)
        self._stream = tasks.start("upstream.listen", self._listen())

    @property
    def congested(self) -> bool:
        """Whether as many messages are on their way as may be."""
        return self._posts.congested

    def write(self, line: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Post one message, as soon as the stream has said where."""
        if not self._open:
            raise BrokenPipeError
        message = envelope.parse(line)
        post = self._post(line, message, headers)
        self._posts.add(posting.key_of(message, line), self._tasks.start("upstream.post", post))

    async def drain(self) -> None:
        """Wait until one message has been delivered."""
        while self.congested and self._open:
            await self._posts.one_ends()

    def abandon(self, request_id: int) -> bool:  # noqa: ARG002
        """Do nothing: the answer would come on the stream and is dropped there."""
        return False

    def close(self, reason: Exception | None = None) -> None:
        """End the stream."""
        if not self._open:
            return
        self._open = False
        self._endpoint.cancel()
        self._posts.drop_all()
        if self._stream is not asyncio.current_task():
            self._stream.cancel()
        self._tasks.start("upstream.close", self._http.close())
        self._on_end(reason)

    async def _listen(self) -> None:
        reason: HubError | LineTooLong
        try:
            reason = await self._read()
        except HubError as error:
            reason = error
        except posting.Failures as error:
            reason = UpstreamFailed(
                f"Server '{self._name}': It cannot be reached ({type(error).__name__})."
            )
        except LineTooLong as error:
            reason = error
        self.close(reason)

    async def _read(self) -> HubError:
        """Hand on what comes on the stream; returns why it ended."""
        accept = {"Accept": posting.EVENTS}
        async with self._http.get(self._url, headers=accept, allow_redirects=False) as response:
            if response.status != 200:
                text = posting.refusal(response.status) or f"It answered HTTP {response.status}."
                return OpeningRefused(f"Server '{self._name}': {text}", http_status=response.status)
            async for kind, data in posting.events(response.content, self._limit):
                if kind == "message":
                    self._on_line(envelope.one_line(data), 0)
                elif kind == "endpoint" and not self._endpoint.done():
                    endpoint = urljoin(self._url, data.decode("latin-1").strip())
                    if urlsplit(endpoint)[:2] != urlsplit(self._url)[:2]:
                        return OpeningRefused(
                            f"Server '{self._name}' wants messages sent to another host."
                        )
                    self._endpoint.set_result(endpoint)
        return UpstreamFailed(f"Server '{self._name}' closed its stream.", hint="Call again.")

    async def _post(
        self, line: bytes, message: envelope.Message, headers: Mapping[str, str]
    ) -> None:
        problem = ""
        try:
            endpoint = await asyncio.shield(self._endpoint)
            async with self._http.post(
                endpoint,
                data=line,
                headers={**headers, **posting.POST_HEADERS},
                allow_redirects=False,
            ) as response:
                problem = posting.refusal(response.status)
        except posting.Failures as error:
            problem = f"It cannot be reached ({type(error).__name__})."
        except HubError as error:
            if message.is_request:
                self._on_line(posting.denied(message.id, error), 0)
        if problem and message.is_request:
            text = f"Server '{self._name}': {problem}"
            self._on_line(envelope.error(message.id, HUB_UPSTREAM_FAILED, text), 0)
