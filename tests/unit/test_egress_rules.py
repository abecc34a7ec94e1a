"""Egress lists and the addresses behind names."""

import pytest

from mcphub.errors import InvalidInput
from mcphub.spawn.egress.dns import Names
from mcphub.spawn.egress.rules import Check, Rules, may_connect

RULES = Rules.parse(
    ("api.example.com", "*.cdn.example", "db.internal:5432", "127.0.0.1:3306", "localhost:6379"),
    {"git.example:443": "127.0.0.1:9443"},
)


@pytest.mark.parametrize(
    ("host", "port", "target", "check"),
    [
        ("api.example.com", 443, ("api.example.com", 443), Check.TLS),
        ("a.cdn.example", 443, ("a.cdn.example", 443), Check.TLS),
        ("db.internal", 5432, ("db.internal", 5432), Check.PRIVATE_OK),
        ("127.0.0.1", 3306, ("127.0.0.1", 3306), Check.NOTHING),
        ("127.0.0.1", 6379, ("127.0.0.1", 6379), Check.NOTHING),
        ("git.example", 443, ("127.0.0.1", 9443), Check.NOTHING),
        ("203.0.113.5", 443, ("", 443), Check.TLS),
    ],
)
def test_listed_destinations_are_allowed(host, port, target, check):
    verdict = RULES.verdict(host, port)
    assert (verdict.target, verdict.check) == (target, check)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example.com", 80),
        ("cdn.example", 443),
        ("evilcdn.example", 443),
        ("db.internal", 443),
        ("127.0.0.1", 5432),
        ("evil.test", 443),
    ],
)
def test_everything_else_is_refused(host, port):
    assert RULES.verdict(host, port).target is None


def test_a_redirect_of_any_host_takes_what_nothing_else_names_on_that_port():
    rules = Rules.parse(("api.example.com",), {"*:443": "127.0.0.1:1", "*:80": "127.0.0.1:2"})
    assert rules.ports == (80, 443, 3128)
    assert rules.resolves("whatever.test")
    assert rules.verdict("whatever.test", 443).target == ("127.0.0.1", 1)
    assert rules.verdict("whatever.test", 80).target == ("127.0.0.1", 2)
    assert rules.verdict("api.example.com", 443).check is Check.TLS
    assert rules.verdict("whatever.test", 22).target is None
    with pytest.raises(InvalidInput):
        Rules.parse((), {"*": "127.0.0.1:1"})


def test_the_hello_must_name_what_was_dialled():
    assert RULES.tls_name("api.example.com", "api.example.com") == "api.example.com"
    assert RULES.tls_name("api.example.com", "a.cdn.example") is None
    assert RULES.tls_name("api.example.com", None) is None
    assert RULES.tls_name("", "a.cdn.example") == "a.cdn.example"
    assert RULES.tls_name("", "db.internal") is None


@pytest.mark.parametrize(
    "entry",
    ["", "a b", "http://x.y", "x:0", "x:70000", "x:y", "-a.b", "*.", "a..b", "[::1]:80", "a/b:80"],
)
def test_a_malformed_entry_is_named(entry):
    with pytest.raises(InvalidInput) as caught:
        Rules.parse((entry,), {})
    assert repr(entry) in str(caught.value)


PRIVATE = ["10.0.0.1", "172.16.9.9", "192.168.1.1", "fd00::1", "100.64.0.1", "::ffff:10.0.0.1"]
NEVER = [
    *("127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "0.1.2.3", "224.0.0.1"),
    *("255.255.255.255", "100.100.100.200", "::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1"),
    *("fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "64:ff9b::a9fe:a9fe"),
]


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_a_plain_host_never_leads_to_a_private_address(address):
    assert not may_connect(address, Check.TLS)


@pytest.mark.parametrize("address", NEVER)
def test_a_named_forward_never_leads_to_this_machine_or_metadata(address):
    assert not may_connect(address, Check.PRIVATE_OK)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_named_forward_may_lead_to_a_private_address(address):
    assert may_connect(address, Check.PRIVATE_OK)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "140.82.112.3"])
def test_public_addresses_are_fine(address):
    assert may_connect(address, Check.TLS)


def test_two_instances_share_no_address_book():
    first, second = Names(RULES), Names(Rules.parse(("other.example",), {}))
    address = first.address("api.example.com")
    assert address is not None
    assert first.name(address) == "api.example.com"
    assert second.name(address) == address
    assert second.address("api.example.com") is None


def test_the_proxy_port_is_there_where_there_is_a_network_and_gives_way_to_an_entry_of_its_own():
    assert Rules.parse((), {}).ports == ()
    assert Rules.parse(("api.example.com",), {}).ports == (443, 3128)
    assert RULES.is_proxy("127.0.0.1", 3128)
    assert not RULES.is_proxy("proxy.example.com", 3128)
    assert not Rules.parse(("127.0.0.1:3128",), {}).is_proxy("127.0.0.1", 3128)
