"""Servers that require OAuth: two users, each with an own account, through a real hub."""

import asyncio
import json
import time

import anyio
import pytest

from mcphub.secret import OAUTH_SLOT
from tests.interaction.accounts import REMOTE, Browser, begin, confirm, connect, protected
from tests.interaction.clients import MODERN, connected, raw_client, request, text_of
from tests.servers.oauth_http import protected_server

pytestmark = pytest.mark.anyio
CALL = request("tools/call", {"name": "recall", "arguments": {}})


@pytest.fixture
async def server():
    async with protected_server() as found:
        yield found


@pytest.fixture
async def hub(hub_of, server):
    async with hub_of({REMOTE: protected(server)}) as found:
        yield found


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_two_users_work_with_their_own_accounts(hub, server, mode):
    assert (await connect(hub, "alice")).status_code == 204
    assert (await connect(hub, "bob")).status_code == 204
    async with connected(hub, "alice", REMOTE, mode) as alice:
        async with connected(hub, "bob", REMOTE, mode) as bob:
            assert await text_of(alice, "recall") == "you are alice@example"
            assert await text_of(bob, "recall") == "you are bob@example"
            assert await text_of(alice, "recall") == "you are alice@example"


async def test_the_page_connects_whose_key_was_given(hub, server):
    async with Browser("alice@example") as browser:
        done = await browser.connect(hub, "alice")
    assert done.status_code == 200 and "connected" in done.text
    async with connected(hub, "alice", REMOTE) as alice:
        assert await text_of(alice, "recall") == "you are alice@example"
    async with raw_client(hub, "bob", REMOTE) as bob:
        assert "not connected" in (await bob.open()).text
    assert not server.authority.of("bob@example")


async def test_who_has_not_connected_is_told_how(hub, server):
    async with raw_client(hub, "bob", REMOTE) as bob:
        told = (await bob.modern("tools/call", {"name": "recall", "arguments": {}})).json()
    text = told["result"]["content"][0]["text"]
    assert told["result"]["isError"]
    assert f"{hub.url}/oauth/connect/{REMOTE}" in text
    assert f"mcphub credential connect {REMOTE} --url {hub.url}" in text
    assert server.requests == []
