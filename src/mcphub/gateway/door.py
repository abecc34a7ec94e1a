"""Who may knock: Host and Origin checks before anything else (rule R14, DNS rebinding).

Not identity: that is the API key. A request without Origin comes from no browser page and passes.
Source: MCP streamable-http §Security Warning.
"""

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
"""`name`, `name:port`, `[address]:port` and nothing else (RFC 9110 §7.2): no user, no path."""


class Door:
    """Allowed Host and Origin values.

    Args:
        public_url: URL of the hub behind a proxy, or "".
        hosts: Further Host values; `name` allows any port, `name:port` just that one.
        origins: Further Origin values, exact.
    """

    def __init__(
        self, public_url: str = "", hosts: Iterable[str] = (), origins: Iterable[str] = ()
    ) -> None:
        public = urlsplit(public_url) if public_url else None
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.lower().rstrip("/") for origin in origins}
        if public is not None and public.netloc:
            self._hosts.add(public.netloc.lower())
            self._origins.add(f"{public.scheme}://{public.netloc}".lower())

    def refusal(self, headers: Mapping[str, str]) -> str:
        """Return why a request with these headers is not answered, or "" when it is."""
        if not self.admits_host(headers.get("host", "")):
            return "This Host is not one of the hub's: see listen.allowed_hosts."
        if "origin" in headers and not self.admits_origin(headers["origin"]):
            return "This Origin is not allowed: see listen.allowed_origins."
        return ""

    def admits_host(self, host: str) -> bool:
        """Whether a Host header value is one of ours."""
        host = host.lower()
        name = _name(host)
        return name in _LOOPBACK or host in self._hosts or name in self._hosts

    def admits_origin(self, origin: str) -> bool:
        """Whether an Origin header value is one of ours, or a page of this machine."""
        origin = origin.lower().rstrip("/")
        if origin in self._origins:
            return True
        scheme, _, authority = origin.partition("://")
        return scheme in {"http", "https"} and _name(authority) in _LOOPBACK


def _name(authority: str) -> str:
    """Return the name without its port; "" for what is no authority."""
    match = _AUTHORITY.fullmatch(authority)
    return match[1] if match is not None else ""
