"""A modern HTTP server as a pipe of lines: one stateless POST per request, one client for one user.

Closing a request's connection is its cancellation. What a server says in a status of 400 and above
is read before it is judged: modern errors travel there.
Source: MCP 2026-07-28 transports/streamable-http.
"""

from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec

from mcphub.errors import HubError
from mcphub.tasks import Tasks
from mcphub.upstream import posting
from mcphub.upstream.lines import NO_HEADERS, LineTooLong, OnEnd, OnLine
from mcphub.wire import envelope, translate
from mcphub.wire.codes import DISCOVER, HUB_UPSTREAM_FAILED

_LEGACY_CODES: Final = range(-32019, -31999)
"""What implementations of the legacy era use as they like."""


class ModernHttpPipe:
    """Implements `upstream.lines.Pipe`. Arguments as `upstream.http.HttpPipe`."""

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
        self._http = posting.client(headers, bearer)

    @property
    def congested(self) -> bool:
        """Whether as many requests are open as may be."""
        return self._posts.congested

    def write(self, line: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Post one request; there are no other messages from clients in this era."""
        if not self._open:
            raise BrokenPipeError
        message = envelope.parse(line)
        if message.is_request:
            post = self._post(line, message, headers)
            self._posts.add(message.id, self._tasks.start("upstream.post", post))

    async def drain(self) -> None:
        """Wait until one request has ended."""
        while self.congested and self._open:
            await self._posts.one_ends()

    def abandon(self, request_id: int) -> bool:
        """Close the request's connection: this cancels it."""
        self._posts.drop(request_id)
        return True

    def close(self, reason: Exception | None = None) -> None:
        """Drop open requests; there is no session to end."""
        if not self._open:
            return
        self._open = False
        self._posts.drop_all()
        self._tasks.start("upstream.close", self._http.close())
        self._on_end(reason)

    async def _post(
        self, line: bytes, message: envelope.Message, headers: Mapping[str, str]
    ) -> None:
        problem, status = "", 0
        try:
            async with self._http.post(
                self._url,
                data=line,
                headers={**headers, **posting.POST_HEADERS},
                allow_redirects=False,
            ) as response:
                status = response.status
                problem = await self._take(response, message)
        except posting.Failures as error:
            problem = f"It cannot be reached ({type(error).__name__})."
        except LineTooLong as error:
            self.close(error)
        except HubError as error:
            self._on_line(posting.denied(message.id, error), 0)
        if problem:
            text = f"Server '{self._name}': {problem}"
            data = {"httpStatus": status}  # 0: not reached
            self._on_line(envelope.error(message.id, HUB_UPSTREAM_FAILED, text, data), 0)

    async def _take(self, response: aiohttp.ClientResponse, message: envelope.Message) -> str:
        """Hand on what a response holds; returns what is wrong with it, or ""."""
        problem = posting.refusal(response.status, response.headers.get("WWW-Authenticate", ""))
        if response.status in {401, 403} or 300 <= response.status < 400:
            return problem
        if problem:
            taken = await self._take_error(response, message)
            return problem if taken is None else taken
        answered, origin = False, posting.origin_of(message)
        async for line in posting.messages(response, self._limit):
            answered = answered or posting.answers(line, message.id)
            self._on_line(line, origin)
        return "" if answered else "It closed the connection without an answer."

    async def _take_error(
        self, response: aiohttp.ClientResponse, message: envelope.Message
    ) -> str | None:
        """Hand on the JSON-RPC error that comes with a status; returns None when there is none.

        What a server of the other era says ends the connection: the next one finds out anew.
        """
        found = await posting.error_in(response, self._limit)
        code = translate.code_of(found.members["error"]) if found is not None else None
        other_era = code in _LEGACY_CODES or (found is None and response.status in {404, 405})
        if other_era and message.method != DISCOVER:
            self.close(posting.changed(self._name))
            return ""
        if found is None:
            return None
        self._on_line(envelope.join(found.members | {"id": msgspec.Raw(message.id)}), 0)
        return ""
