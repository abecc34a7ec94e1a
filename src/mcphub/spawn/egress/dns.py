"""DNS as an instance sees it: its allowed names, each with an address of its own. Pure.

The address is made up: every address is local in the instance's network, and the gateway finds the
name again by the address that was dialled. It looks public because many servers refuse to connect
to private or loopback answers. Nothing is ever asked upstream here, so names carry no data out.
"""

import ipaddress
from typing import Final

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.dns import DNSError

from mcphub.spawn.egress.rules import Rules

_FIRST: Final = int(ipaddress.IPv4Address("11.0.0.1"))
_MAX_NAMES: Final = 4096
_TTL_S: Final = 60


class Names:
    """The made-up addresses of one instance; grows up to a limit (`*.host` matches many names)."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._address: dict[str, str] = {}
        self._name: dict[str, str] = {}

    def address(self, name: str) -> str | None:
        """Return the address of an allowed name, None for any other or when the table is full."""
        known = self._address.get(name)
        if known is not None:
            return known
        if not self._rules.resolves(name) or len(self._address) >= _MAX_NAMES:
            return None
        made = str(ipaddress.IPv4Address(_FIRST + len(self._address)))
        self._address[name] = made
        self._name[made] = name
        return made

    def name(self, address: str) -> str:
        """Return the name that led to an address, or the address itself."""
        return self._name.get(address, address)

    def answer(self, query: bytes) -> tuple[bytes, str] | None:
        """Return the reply to a query and the refused name ("" when answered); None if malformed."""
        try:
            request = DNSRecord.parse(query)
            if request.header.qr or len(request.questions) != 1:
                return None
            name = str(request.q.qname).rstrip(".").lower()
            reply = request.reply()
            address = self.address(name)
            if address is None:
                reply.header.rcode = RCODE.NXDOMAIN
            elif request.q.qtype == QTYPE.A:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(address), ttl=_TTL_S))
            return bytes(reply.pack()), "" if address else name
        except (DNSError, ValueError, IndexError, UnicodeError):
            return None
