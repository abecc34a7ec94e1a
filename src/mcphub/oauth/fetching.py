"""Requests to URLs that came from outside: metadata, registration and token endpoints (rule R20).

https only, to public addresses only: each name is resolved here and the connection goes to an address
that was checked, so a name cannot mean something else a moment later. No redirect is followed, no
proxy of the environment and no cookie is used; time and size are bounded. What the administrator
named may be private: the server's own origin, and `oauth.privateHosts`.

Not here: the MCP connection itself, whose URL is the administrator's (`upstream.posting`).
"""

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mcphub.errors import HubError, Unavailable
from mcphub.oauth.failing import AddressRefused, AuthorizationFailed
from mcphub.spawn.egress.rules import Check, may_connect

LIMIT_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 10.0
_LONGEST_URL: Final = 4096
_USER_AGENT: Final = "mcphub"
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status.
        body: At most `LIMIT_BYTES`.
        challenges: All `WWW-Authenticate` headers.
    """

    status: int
    body: bytes
    challenges: tuple[str, ...] = ()

    @property
    def members(self) -> Mapping[str, Any]:
        """The members of a JSON object; empty for anything else."""
        value = self.document(dict[str, Any])
        return value or {}

    def document(self, kind: type[_Kind]) -> _Kind | None:
        """Return the body as a value of a kind; None when it is none, however it was written."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches for one server.

    Attributes:
        server: Name of the server spec, for error texts.
        named: `host` or `host:port` that the administrator named: these may have private addresses,
            and may be plain http where the address is this machine's own.
    """

    server: str
    named: frozenset[str] = frozenset()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """Fetch a document. Raises as `send`."""
        return await self.send("GET", url, {"Accept": "application/json", **(headers or {})})

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None = None
    ) -> Answer:
        """Send one request.

        Raises:
            AddressRefused: The URL leads where the hub does not go.
            Unavailable: The host cannot be reached.
            AuthorizationFailed: The answer is too large.
        """
        target = self.checked(url)
        resolver = _Resolver(self, target)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=1)
        try:
            async with (
                asyncio.timeout(TIMEOUT_S),
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
                ) as session,
                session.request(
                    method,
                    target,
                    data=data,
                    headers={"User-Agent": _USER_AGENT, **headers},
                    allow_redirects=False,
                ) as response,
            ):
                body = await _whole(response.content)
                challenges = tuple(response.headers.getall("WWW-Authenticate", ()))
                return Answer(response.status, body, challenges)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # a ValueError is a host or a header that cannot be one
            if resolver.refused:
                raise self._refused("Its address is not a public one", target.host) from None
            raise Unavailable(
                f"Server '{self.server}': {target.host} cannot be reached ({type(error).__name__}).",
                hint="Try again later.",
                retry_after_s=5,
            ) from None
        except _TooLarge:
            raise AuthorizationFailed(
                f"Server '{self.server}': {target.host} answered with more than {LIMIT_BYTES} bytes."
            ) from None

    def checked(self, url: str) -> URL:
        """Return a URL that may be asked or shown to a browser, as far as that can be seen from it.

        Raises:
            AddressRefused: It may not.
        """
        try:
            target = URL(url) if len(url) <= _LONGEST_URL and url.isprintable() else URL()
            host, port = target.host or "", target.port
        except ValueError:
            target, host, port = URL(), "", None
        if not host or port is None or target.user is not None or target.password is not None:
            raise self._refused("It named no usable URL", "")
        if target.raw_fragment:
            raise self._refused("Its URL has a fragment", host)
        if target.scheme != "https" and not (target.scheme == "http" and self.names(host, port)):
            raise self._refused("Its URL is not https", host)
        if _is_address(host) and not self.admits(target, host):
            raise self._refused("Its address is not a public one", host)
        return target

    def names(self, host: str, port: int) -> bool:
        """Whether the administrator named a host."""
        return host.lower() in self.named or f"{host.lower()}:{port}" in self.named

    def admits(self, target: URL, address: str) -> bool:
        """Whether a connection for a URL may go to an address."""
        named = self.names(target.host or "", target.port or 0)
        if named and ip_address(address.partition("%")[0]).is_loopback:
            return True
        return target.scheme == "https" and may_connect(
            address, Check.PRIVATE_OK if named else Check.TLS
        )

    def _refused(self, what: str, host: str | None) -> HubError:
        return AddressRefused(
            f"Server '{self.server}': {what}{f' ({host[:100]})' if host else ''}.",
            hint="If it is in your own network, an administrator can name it in oauth.privateHosts.",
        )


class _TooLarge(Exception):
    pass


class _Resolver(AbstractResolver):
    """Resolves for one request and gives only addresses that were checked."""

    def __init__(self, fetcher: Fetcher, target: URL) -> None:
        self._fetcher, self._target = fetcher, target
        self.refused = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        addresses = list(dict.fromkeys((str(one[4][0]), one[0]) for one in found))
        admitted = [one for one in addresses if self._fetcher.admits(self._target, one[0])]
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


async def _whole(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_chunked(64 * 1024):
        size += len(part)
        if size > LIMIT_BYTES:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
