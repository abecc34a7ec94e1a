"""`userContext` and `credentialSlots`: what they mean, and what stops the settings."""

import json
from typing import Any

import pytest

from mcphub.catalog.identity import header_of
from mcphub.catalog.problems import SettingsError
from mcphub.catalog.settings_file import parse_settings
from mcphub.catalog.spec import ServerSpec

KEY = {"kty": "OKP", "crv": "X25519", "kid": "k", "x": "A" * 42 + "A"}
HTTPS = {"url": "https://notes.example/mcp?x=1"}
STDIO = {"command": "/bin/true"}


def spec_of(**entry: Any) -> ServerSpec:
    return parse_settings(json.dumps({"mcpServers": {"notes": entry}}), {}).specs["notes"]


@pytest.mark.parametrize(
    ("slot", "header"),
    [
        ("GITHUB_TOKEN", "X-MCPHub-GitHub-Token"),
        ("GITLAB_TOKEN", "X-MCPHub-GitLab-Token"),
        ("NOTION_API_KEY", "X-MCPHub-Notion-Api-Key"),
        ("TOKEN", "X-MCPHub-Token"),
    ],
)
def test_a_slot_has_the_header_that_the_page_says(slot: str, header: str) -> None:
    assert header_of(slot) == header


def test_a_server_is_told_nothing_unless_the_settings_say_so() -> None:
    plain = spec_of(**HTTPS)
    assert plain.user_context is None
    assert not plain.offers
    aware = spec_of(**HTTPS, userAware=True).user_context
    assert aware is not None
    assert (aware.send, aware.audience, aware.pairwise) == (
        "auto",
        "https://notes.example/mcp",
        True,
    )
    assert aware.groups_of({"a", "b"}) == []
    never = spec_of(**HTTPS, userContext={"send": "never"})
    assert not never.offers


def test_a_users_value_in_the_url_is_no_part_of_the_audience() -> None:
    spec = spec_of(url="https://notes.example/${USER_TOKEN}/mcp", userAware=True)
    assert spec.user_context is not None
    assert spec.user_context.audience == "https://notes.example"


def test_groups_and_permissions_are_those_that_the_settings_name() -> None:
    context = spec_of(
        **STDIO,
        userContext={"groups": ["a"], "permissions": {"a": ["read"], "b": ["write", "read"]}},
    ).user_context
    assert context is not None
    assert context.groups_of({"a", "b"}) == ["a"]
    assert context.permissions_of({"b"}) == ["read", "write"]
    assert context.permissions_of({"c"}) == []
    every = spec_of(**STDIO, userContext={"groups": True}).user_context
    assert every is not None
    assert every.groups_of({"b", "a"}) == ["a", "b"]


def test_a_declared_slot_counts_as_the_users_own_credential_over_http() -> None:
    spec = spec_of(**HTTPS, credentialSlots=["GITHUB_TOKEN"])
    assert spec.request_slots == spec.slot_names == ("GITHUB_TOKEN",)
    assert spec.facts().per_user_credential


def test_what_is_told_is_part_of_an_instances_revision() -> None:
    revisions = {
        spec_of(**HTTPS).revision,
        spec_of(**HTTPS, userAware=True).revision,
        spec_of(**HTTPS, userAware=True, userContext={"send": "always"}).revision,
        spec_of(**HTTPS, credentialSlots=["A"]).revision,
        spec_of(**HTTPS, credentialSlots=["B"]).revision,
    }
    assert len(revisions) == 5


WRONG = {
    "plain http": ({"url": "http://notes.example/mcp", "credentialSlots": ["T"]}, "plain http"),
    "a program": ({**STDIO, "credentialSlots": ["T"]}, "environment"),
    "a reserved header": ({**HTTPS, "credentialSlots": ["SESSION_ID"]}, "credential slot"),
    "a fact": ({**HTTPS, "credentialSlots": ["USER_ID"]}, "credential slot"),
    "no slot": ({**HTTPS, "credentialSlots": ["token"]}, "credential slot"),
    "a slot twice": ({**HTTPS, "credentialSlots": ["T", "T"]}, "twice"),
    "a private key": ({**HTTPS, "userContext": {"encryptTo": {**KEY, "d": "AAAA"}}}, "X25519"),
    "another curve": ({**HTTPS, "userContext": {"encryptTo": {**KEY, "crv": "P-256"}}}, "X25519"),
    "a short key": ({**HTTPS, "userContext": {"encryptTo": {**KEY, "x": "AAAA"}}}, "X25519"),
    "nothing to encrypt": (
        {**HTTPS, "userContext": {"send": "never", "encryptTo": KEY}},
        "Nothing",
    ),
    "a group with a comma": ({**HTTPS, "userContext": {"groups": ["a,b"]}}, "comma"),
    "a line break": ({**HTTPS, "userContext": {"audience": "a\nb"}}, "printable"),
    "an own header": ({**HTTPS, "headers": {"X-MCPHub-User-Id": "root"}}, "hub sets this header"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_told_safely_stops_the_settings(case: str) -> None:
    entry, words = WRONG[case]
    with pytest.raises(SettingsError, match=words):
        spec_of(**entry)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/mcp", "https://notes.example/mcp"])
def test_credentials_go_over_https_or_to_loopback(url: str) -> None:
    assert spec_of(url=url, credentialSlots=["T"]).request_slots == ("T",)
    far = spec_of(
        url="http://notes.example/mcp", credentialSlots=["T"], userContext={"encryptTo": KEY}
    )
    assert far.user_context is not None
    assert far.user_context.encrypt_to == KEY
