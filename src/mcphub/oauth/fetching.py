"""Requests to URLs that came from outside: metadata, registration and token endpoints (rule R20).

https only, to public addresses only: each name is resolved here and the connection goes to an address
that was checked, so a name cannot mean something else a moment later. No redirect is followed, no
proxy of the environment and no cookie is used; time and size are bounded. What the administrator
named may be private: the server's own origin, and `oauth.privateHosts`.

Not here: the MCP connection itself, whose URL is the administrator's (`upstream.posting`).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from ipaddress import ip_address
from typing import Any, Final, TypeVar

import msgspec
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
        # aiohttp takes 5 MB, which a hub without OAuth never needs, and some time to load
        await asyncio.to_thread(import_module, "mcphub.oauth.requesting")
        from mcphub.oauth.requesting import Refused, TooLarge, Unreachable, request  # noqa: PLC0415

        given = {"User-Agent": _USER_AGENT, **headers}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await request(
                    method,
                    target,
                    given,
                    data,
                    owner=self.server,
                    most=LIMIT_BYTES,
                    admits=partial(self.admits, target),
                )
                return Answer(*answer)
        except Refused:
            raise self._refused("Its address is not a public one", target.host) from None
        except TooLarge:
            raise AuthorizationFailed(
                f"Server '{self.server}': {target.host} answered with more than {LIMIT_BYTES} bytes."
            ) from None
        except (Unreachable, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise Unavailable(
                f"Server '{self.server}': {target.host} cannot be reached ({why}).",
                hint="Try again later.",
                retry_after_s=5,
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


def _is_address(host: str) -> bool:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
