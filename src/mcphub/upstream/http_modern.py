"""A modern HTTP server as a pipe of lines: one stateless POST per request, one client for one user.

Closing a request's connection is its cancellation. What a server says in a status of 400 and above
is read before it is judged: modern errors travel there.
Source: MCP 2026-07-28 transports/streamable-http.
"""

from collections.abc import Mapping
from typing import Final

from mcphub.upstream import posting
from mcphub.upstream.lines import NO_HEADERS
from mcphub.upstream.posting import Post, Posting
from mcphub.wire import envelope, translate
from mcphub.wire.codes import DISCOVER
from mcphub.wire.pieces import Text

_LEGACY_CODES: Final = range(-32019, -31999)
"""What implementations of the legacy era use as they like."""


class ModernHttpPipe(Posting):
    """See `posting.Posting`."""

    cancels = True

    def write(self, line: Text, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Post one request; there are no other messages from clients in this era."""
        if not self._open:
            raise BrokenPipeError
        if posting.written(line)[0]:
            super().write(line, headers)

    def refused(self, post: Post, found: envelope.Message | None) -> bool:
        """Hand on the JSON-RPC error that comes with a status.

        What a server of the other era says ends the connection: the next one finds out anew.
        """
        code = translate.code_of(found.inner("error")) if found is not None else None
        other_era = code in _LEGACY_CODES or (found is None and post.status in {404, 405})
        if other_era and post.method != DISCOVER:
            self.close(posting.changed(self.name))
            return True
        if found is None:
            return False
        post.answer(found.members)
        return True
