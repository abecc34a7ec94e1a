"""The GitHub stand-in tells callers apart by their tokens and never repeats one."""

import http.client
import json
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcphub.testing.github_standin import HOST, GitHubStandIn, alias


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[GitHubStandIn]:
    with GitHubStandIn(tmp_path) as running:
        yield running


def get(standin: GitHubStandIn, path: str, token: str | None) -> tuple[int, str]:
    context = ssl.create_default_context(cafile=str(standin.ca_file))
    raw = http.client.HTTPSConnection("127.0.0.1", standin.port, timeout=10)
    raw.connect = lambda: setattr(  # the name in the certificate is the real API's
        raw,
        "sock",
        context.wrap_socket(
            raw._create_connection(("127.0.0.1", standin.port)), server_hostname=HOST
        ),
    )
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        raw.request("GET", path, headers=headers)
        response = raw.getresponse()
        return response.status, response.read().decode()
    finally:
        raw.close()


def test_each_caller_is_recorded_under_an_alias_of_the_own_token(standin: GitHubStandIn) -> None:
    alice, bob = (f"ghp_{secrets.token_hex(18)}" for _ in range(2))
    _, hers = get(standin, "/search/repositories?q=one&page=1", alice)
    _, his = get(standin, "/search/repositories?q=two&page=1", bob)
    assert [a.caller for a in standin.arrivals("one")] == [alias(alice)]
    assert [a.caller for a in standin.arrivals("two")] == [alias(bob)]
    assert json.loads(hers)["items"][0]["owner"]["login"] == alias(alice)
    assert alice not in hers + his
    assert bob not in hers + his


def test_without_a_token_nothing_is_answered(standin: GitHubStandIn) -> None:
    status, _ = get(standin, "/user", None)
    assert status == 401
    assert standin.arrivals()[0].caller == ""


def test_what_it_does_not_know_is_not_found(standin: GitHubStandIn) -> None:
    assert get(standin, "/gists", "ghp_x")[0] == 404


def test_the_servers_key_is_private(standin: GitHubStandIn) -> None:
    assert standin.certificate.chain_file.stat().st_mode & 0o077 == 0
    assert b"PRIVATE" not in standin.ca_file.read_bytes()
