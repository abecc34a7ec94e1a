"""DNS as an instance sees it."""

import ipaddress

from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from mcphub.spawn.egress.dns import Names
from mcphub.spawn.egress.rules import Rules

RULES = Rules.parse(("api.example.com", "*.cdn.example"), {})


def ask(names: Names, name: str, kind: str = "A") -> DNSRecord:
    found = names.answer(DNSRecord.question(name, kind).pack())
    assert found is not None
    return DNSRecord.parse(found[0])


def test_an_allowed_name_gets_one_public_looking_address():
    names = Names(RULES)
    answers = {str(ask(names, "API.example.com.").a.rdata) for _ in range(3)}
    assert len(answers) == 1
    assert ipaddress.ip_address(answers.pop()).is_global


def test_names_get_different_addresses():
    names = Names(RULES)
    found = {str(ask(names, f"{i}.cdn.example").a.rdata) for i in range(300)}
    assert len(found) == 300


def test_any_other_name_does_not_exist_and_is_reported():
    names = Names(RULES)
    found = names.answer(DNSRecord.question("evil.test").pack())
    assert found is not None
    assert DNSRecord.parse(found[0]).header.rcode == RCODE.NXDOMAIN
    assert found[1] == "evil.test"


def test_ipv6_and_other_kinds_are_empty_for_allowed_names():
    for kind in ("AAAA", "TXT", "HTTPS", "MX"):
        reply = ask(Names(RULES), "api.example.com", kind)
        assert reply.header.rcode == RCODE.NOERROR
        assert reply.rr == []
    assert QTYPE.A == 1


def test_the_address_book_is_bounded():
    names = Names(RULES)
    for i in range(4096):
        assert names.address(f"{i}.cdn.example")
    assert names.address("one-more.cdn.example") is None


@given(st.binary(max_size=600))
def test_noise_is_answered_or_ignored(data):
    Names(RULES).answer(data)
