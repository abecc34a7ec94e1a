"""Host and Origin checks (rule R14)."""

import pytest

from mcphub.gateway.door import Door
from mcphub.gateway.http import read_headers

DOOR = Door(
    "https://hub.example.org",
    ["intern.example.org", "exact.example.org:8443"],
    ["https://console.example.org"],
)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8765",
        "localhost",
        "[::1]:80",
        "hub.example.org",
        "intern.example.org:1234",
        "exact.example.org:8443",
        "HUB.example.org",
    ],
)
def test_own_hosts_are_admitted(host):
    assert DOOR.admits_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "hub.example.org.evil.example",
        "127.0.0.1.evil.example",
        "exact.example.org:1",
    ],
)
def test_foreign_hosts_are_refused(host):
    assert not DOOR.admits_host(host)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://127.0.0.1",
        "https://hub.example.org",
        "https://console.example.org",
    ],
)
def test_own_origins_are_admitted(origin):
    assert DOOR.admits_origin(origin)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://hub.example.org",
        "https://localhost.evil.example",
        "file://localhost",
        "http://user@evil.example",
    ],
)
def test_foreign_origins_are_refused(origin):
    assert not DOOR.admits_origin(origin)


def test_blanks_around_a_header_count_for_nothing():
    assert read_headers([(b"mcp-name", b"  echo \t")]) == {"mcp-name": "echo"}
