"""Where one instance may connect, as values; and which addresses a name may lead to. Pure.

An entry is `host` (TLS on 443, checked by the name in the ClientHello), `*.host` (its subdomains,
likewise), `host:port` or `ip:port` (plain TCP). A redirect replaces the destination and allows it; `*:port` redirects every destination
with that port which no other entry names: for an isolation check, whose instance talks to a witness.
"""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

from mcphub.errors import InvalidInput

HTTPS: Final = 443
PROXY: Final = ("127.0.0.1", 3128)
"""Where an instance finds the proxy port (`egress.connect`)."""
MAX_ENTRIES: Final = 1000
_MAX_PORTS: Final = 64
ANY: Final = "*"
"""In the key of a redirect: every name and address."""
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")
_EMPTY: Mapping["Endpoint", "Endpoint"] = MappingProxyType({})

Endpoint = tuple[str, int]
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Machine metadata services outside the link-local ranges.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")


class Check(StrEnum):
    """What the gateway must check before it connects."""

    NOTHING = "nothing"
    """The target was named literally by the administrator."""
    PRIVATE_OK = "private-ok"
    """A `host:port` entry: private addresses are fine, this machine and metadata are not."""
    TLS = "tls"
    """A `host` entry: the ClientHello must name it and its address must be public."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a connection.

    Attributes:
        target: Where to connect; with an empty host it is the name in the ClientHello. None refuses.
        check: What must hold first.
        reason: Why refused.
    """

    target: Endpoint | None
    check: Check = Check.NOTHING
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """Parsed egress list of one instance.

    Attributes:
        hosts: Names allowed by TLS on 443.
        suffixes: `.example.com` for each `*.example.com`.
        endpoints: Allowed (name or address, port) for plain TCP.
        redirects: Dialled endpoint -> real one; the dialled host may be `ANY`.
    """

    hosts: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    endpoints: frozenset[Endpoint] = frozenset()
    redirects: Mapping[Endpoint, Endpoint] = field(default_factory=lambda: _EMPTY)

    @classmethod
    def parse(cls, egress: Iterable[str], redirect: Mapping[str, str]) -> Self:
        """Read the lists of a `SandboxSpec`.

        Raises:
            InvalidInput: An entry has none of the known forms.
        """
        hosts: set[str] = set()
        suffixes: set[str] = set()
        endpoints: set[Endpoint] = set()
        entries = list(egress)
        if len(entries) + len(redirect) > MAX_ENTRIES:
            raise InvalidInput(f"An egress list has more than {MAX_ENTRIES} entries.")
        for entry in entries:
            name, _, port = entry.strip().lower().partition(":")
            if port:
                endpoints.add(_endpoint(entry))
            elif name.startswith("*."):
                suffixes.add("." + _host(name[2:], entry))
            elif _is_address(name):
                endpoints.add((name, HTTPS))
            else:
                hosts.add(_host(name, entry))
        redirects = {_dialled(old): _endpoint(new) for old, new in redirect.items()}
        rules = cls(frozenset(hosts), tuple(sorted(suffixes)), frozenset(endpoints), redirects)
        if len(rules.ports) > _MAX_PORTS:
            raise InvalidInput(f"An egress list names more than {_MAX_PORTS} ports.")
        return rules

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports to listen on inside the instance's network."""
        named = {port for _, port in (*self.endpoints, *self.redirects)}
        if self.hosts or self.suffixes:
            named.add(HTTPS)
        return tuple(sorted(named | {PROXY[1]})) if named else ()

    def is_proxy(self, host: str, port: int) -> bool:
        """Tell whether a connection came to the proxy port; an entry for that very place counts more."""
        return (host, port) == PROXY and self.verdict(host, port).target is None

    def resolves(self, name: str) -> bool:
        """Tell whether the instance may look a name up (lower case, no trailing dot)."""
        return self._allows_tls(name) or any(
            host in (name, ANY) for host, _ in (*self.endpoints, *self.redirects)
        )

    def verdict(self, host: str, port: int) -> Verdict:
        """Decide on a connection.

        Args:
            host: The name behind the dialled address, or the address when no name led to it.
            port: The dialled port.
        """
        endpoint = (host, port)
        if endpoint in self.redirects:
            return Verdict(self.redirects[endpoint])
        if endpoint in self.endpoints:
            return Verdict(endpoint, Check.NOTHING if _is_address(host) else Check.PRIVATE_OK)
        if port == HTTPS and _is_address(host) and (self.hosts or self.suffixes):
            return Verdict(("", port), Check.TLS)
        if port == HTTPS and self._allows_tls(host):
            return Verdict(endpoint, Check.TLS)
        if (ANY, port) in self.redirects:
            return Verdict(self.redirects[ANY, port])
        return Verdict(None, reason="not in the egress list")

    def tls_name(self, expected: str, offered: str | None) -> str | None:
        """Return the name to connect to if the ClientHello's fits, else None."""
        if offered is None or (expected and offered != expected):
            return None
        return offered if self._allows_tls(offered) else None

    def _allows_tls(self, name: str) -> bool:
        return name in self.hosts or any(name.endswith(suffix) for suffix in self.suffixes)


def may_connect(address: str, check: Check) -> bool:
    """Tell whether a resolved address may be connected to (rule R20).

    IPv4 inside IPv6 (mapped, 6to4, NAT64, Teredo) is judged as the IPv4 address.
    """
    if check is Check.NOTHING:
        return True
    ip = _inner(ipaddress.ip_address(address.partition("%")[0]))
    never = (
        ip.is_loopback
        or ip.is_link_local
        or ip.is_multicast
        or ip.is_unspecified
        or ip in _METADATA
        or (ip.version == 4 and (ip in _THIS_NETWORK or ip == ipaddress.IPv4Address(0xFFFFFFFF)))
    )
    return not never and (check is Check.PRIVATE_OK or ip.is_global)


def _inner(ip: _Address) -> _Address:
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip


def _is_address(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _host(name: str, entry: str) -> str:
    labels = name.rstrip(".").split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise InvalidInput(
            f"{entry[:80]!r} is not an egress entry.",
            hint="Write `host`, `*.host`, `host:port` or `ip:port`.",
        )
    return name.rstrip(".")


def _dialled(entry: str) -> Endpoint:
    """Return the key of a redirect: an endpoint, or any host on one port."""
    host, _, port = entry.strip().partition(":")
    return (ANY, _endpoint(f"0.0.0.0:{port}")[1]) if host == ANY else _endpoint(entry)


def _endpoint(entry: str) -> Endpoint:
    name, _, port = entry.strip().lower().partition(":")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidInput(
            f"{entry[:80]!r} has no valid port.", hint="Write `host:port`, e.g. `db.internal:5432`."
        )
    if name == "localhost":  # inside, /etc/hosts answers before the gateway is asked
        name = "127.0.0.1"
    return (name if _is_address(name) else _host(name, entry)), int(port)
