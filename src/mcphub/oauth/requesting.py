"""One HTTP request to a URL that came from outside, over a connection to an address that was checked.

Knows nothing of OAuth and makes no decision: which addresses may be connected to says whoever asks
(`oauth.fetching`).
"""

import socket
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mcphub.names import addresses


class Refused(Exception):
    """The name has no address that may be connected to."""


class TooLarge(Exception):
    """The answer is longer than it may be."""


class Unreachable(Exception):
    """The host could not be asked; says why in one word."""


async def request(
    method: str,
    url: URL,
    headers: Mapping[str, str],
    data: bytes | None,
    *,
    owner: str,
    most: int,
    admits: Callable[[str], bool],
) -> tuple[int, bytes, tuple[str, ...]]:
    """Send one request and return status, body and all `WWW-Authenticate` headers; no redirect is followed.

    Args:
        method: Of HTTP.
        url: Where to.
        headers: All that are sent beside those of the connection itself.
        data: The body.
        owner: Whom it is sent for: the server's name.
        most: Bytes that the answer may have.
        admits: Whether an address may be connected to.

    Raises:
        Refused, TooLarge, Unreachable: As they say.
    """
    resolver = _Resolver(admits, owner)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=1)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
            ) as session,
            session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response,
        ):
            body = await _whole(response.content, most)
            challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
            return response.status, body, challenges
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # a ValueError is a host or a header that cannot be one
        if resolver.refused:
            raise Refused from None
        raise Unreachable(type(error).__name__) from None


class _Resolver(AbstractResolver):
    """Resolves for one request and gives only addresses that were checked."""

    def __init__(self, admits: Callable[[str], bool], owner: str) -> None:
        self._admits, self._owner = admits, owner
        self.refused = False

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002  of any that there is
    ) -> list[ResolveResult]:
        found = await addresses(host, port, self._owner)
        known = list(dict.fromkeys((str(one[4][0]), one[0]) for one in found))
        admitted = [one for one in known if self._admits(one[0])]
        if not admitted:
            self.refused = True
            raise OSError("no address may be connected to")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address, kind in admitted
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _whole(content: aiohttp.StreamReader, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(64 * 1024):
        size += len(part)
        if size > most:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)
