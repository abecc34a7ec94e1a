"""A legacy Streamable HTTP server as a pipe of lines: one connection pool and session for one user.

Each message is a POST; what comes back, as JSON or as an event stream, is handed on line by line, as
from a process. It lives and dies with the instance.

Not here: headers with identity or credentials (`spawn.launching`), JSON-RPC (`upstream.legacy`).
Source: MCP 2025-11-25 transports §Streamable HTTP.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec

from mcphub.errors import HubError, UpstreamFailed
from mcphub.tasks import Tasks
from mcphub.upstream import posting
from mcphub.upstream.lines import NO_HEADERS, LineTooLong, OnEnd, OnLine
from mcphub.wire import envelope, translate
from mcphub.wire.codes import HUB_UPSTREAM_FAILED, LATEST_LEGACY, MODERN_ERRORS

_CLOSE_S: Final = 2.0


class HttpPipe:
    """Implements `upstream.lines.Pipe` over HTTP.

    Args:
        name: Name of the server spec, for error texts.
        url: Where to post.
        headers: Headers of every request: credentials of this user, identity.
        limit: Longest message, in bytes.
        tasks: Where requests run.
        on_line, on_end: As `upstream.lines.Connect`.
        bearer: Gives the token of each request, where the server has OAuth.
    """

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
        self._own: dict[str, str] = {}
        self._posts = posting.Posts()
        self._stream: asyncio.Task[None] | None = None
        self._open = True
        self._http = posting.client(headers, bearer)

    @property
    def congested(self) -> bool:
        """Whether as many requests are open as may be."""
        return self._posts.congested

    def write(self, line: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Post one message."""
        if not self._open:
            raise BrokenPipeError
        message = envelope.parse(line)
        post = self._post(line, message, headers)
        key = posting.key_of(message, line)
        self._posts.add(key, self._tasks.start("upstream.post", post))

    async def drain(self) -> None:
        """Wait until one request has ended."""
        while self.congested and self._open:
            await self._posts.one_ends()

    def abandon(self, request_id: int) -> bool:
        """Close the request's connection; in this era that cancels nothing."""
        self._posts.drop(request_id)
        return False

    def close(self, reason: Exception | None = None) -> None:
        """End the session: open requests are dropped, the server is told."""
        if not self._open:
            return
        self._open = False
        self._posts.drop_all()
        if self._stream is not None:
            self._stream.cancel()
        self._tasks.start("upstream.close", self._leave())
        self._on_end(reason)

    async def _post(
        self, line: bytes, message: envelope.Message, headers: Mapping[str, str]
    ) -> None:
        problem, status = "", 0
        try:
            async with self._http.post(
                self._url,
                data=line,
                headers={**posting.POST_HEADERS, **headers, **self._own},
                allow_redirects=False,
            ) as response:
                status = response.status
                problem = await self._take(response, message)
        except posting.Failures as error:
            problem = f"It cannot be reached ({type(error).__name__})."
        except LineTooLong as error:
            self.close(error)
        except HubError as error:
            if message.is_request:
                self._on_line(posting.denied(message.id, error), 0)
        if problem and message.is_request:
            text = f"Server '{self._name}': {problem}"
            data = {"httpStatus": status}  # 0: not reached
            self._on_line(envelope.error(message.id, HUB_UPSTREAM_FAILED, text, data), 0)

    async def _take(self, response: aiohttp.ClientResponse, message: envelope.Message) -> str:
        """Hand on what a response holds; returns what is wrong with it, or ""."""
        if response.status == 404 and "Mcp-Session-Id" in self._own:
            self.close(
                UpstreamFailed(f"Server '{self._name}' ended the session.", hint="Call again.")
            )
            return ""
        problem = posting.refusal(response.status, response.headers.get("WWW-Authenticate", ""))
        if problem:
            return await self._refused(response, message, problem)
        if message.method == "initialize":
            self._opened(response)
        answered, origin = False, posting.origin_of(message)
        async for line in posting.messages(response, self._limit):
            answered = answered or posting.answers(line, message.id)
            self._on_line(line, origin)
        if message.method == "notifications/initialized":
            self._stream = self._tasks.start("upstream.listen", self._listen())
        if answered or not message.is_request:
            return ""
        return "It closed the connection without an answer."

    async def _refused(
        self, response: aiohttp.ClientResponse, message: envelope.Message, problem: str
    ) -> str:
        """Hand on the JSON-RPC error that comes with a status; returns what is wrong without one."""
        if response.status < 400 or response.status in {401, 403} or message.method == "initialize":
            return problem
        found = await posting.error_in(response, self._limit)
        if found is None:
            return problem
        if translate.code_of(found.members["error"]) in MODERN_ERRORS:
            self.close(posting.changed(self._name))
        elif message.is_request:
            answer = envelope.join(found.members | {"id": msgspec.Raw(message.id)})
            self._on_line(answer, 0)
        return ""

    def _opened(self, response: aiohttp.ClientResponse) -> None:
        given = response.headers.get("Mcp-Session-Id", "")
        self._own = {"MCP-Protocol-Version": LATEST_LEGACY}
        if given and len(given) <= 1024 and given.isprintable():
            self._own["Mcp-Session-Id"] = given

    async def _listen(self) -> None:
        """Keep the server's GET stream open, where it has one."""
        headers = {"Accept": posting.EVENTS, **self._own}
        for pause in (0.0, *posting.REOPEN_S):
            await asyncio.sleep(pause)
            with contextlib.suppress(HubError, *posting.Failures):
                async with self._http.get(
                    self._url, headers=headers, allow_redirects=False
                ) as response:
                    if response.status != 200:
                        return
                    async for line in posting.messages(response, self._limit):
                        self._on_line(line, 0)

    async def _leave(self) -> None:
        with contextlib.suppress(HubError, *posting.Failures):
            if "Mcp-Session-Id" in self._own:
                timeout = aiohttp.ClientTimeout(total=_CLOSE_S)
                async with self._http.delete(
                    self._url, headers=self._own, timeout=timeout, allow_redirects=False
                ):
                    pass
        await self._http.close()
