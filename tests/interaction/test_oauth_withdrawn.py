"""What ends while an account is being connected: the key, the membership, the user, the authorization.

Nothing is connected then, and no token stays alive that nobody holds; the other user's flow goes on.
"""

import asyncio

import httpx2
import pytest
from sqlalchemy import text

from mcphub.offboarding import destroy
from mcphub.secret import OAUTH_SLOT
from mcphub.testing.hub import write_servers
from tests.interaction.accounts import REMOTE, Browser, connect, protected
from tests.interaction.clients import connected, raw_client, request, text_of
from tests.polling import until

pytestmark = pytest.mark.anyio
CALL = request("tools/call", {"name": "recall", "arguments": {}})


@pytest.fixture
async def hub(hub_of, server):
    """A server of one group, which both users are members of."""
    users = {"alice": ["team"], "bob": ["team"]}
    async with hub_of({REMOTE: protected(server, groups=["team"])}, users) as found:
        yield found


async def revoke_key(hub):
    directory = hub.hub.ground.directory
    (key,) = await directory.keys((await directory.user("alice")).id)
    await directory.revoke_key(key.id)


async def leave_the_group(hub):
    await hub.hub.ground.directory.leave("alice", "team")


async def disable(hub):
    await hub.hub.ground.directory.disable_user("alice")


async def remove(hub):
    await disable(hub)
    await hub.hub.refresh()
    alice = await hub.hub.ground.directory.user("alice")
    await destroy(hub.hub.ground, alice.id, actor="test", stopped=0)


WAYS = [revoke_key, leave_the_group, disable, remove]


def alive(server, account):
    """Every token of an account that its issuer still takes."""
    authority = server.authority
    return [
        token
        for kept in (authority.access, authority.refresh)
        for token, grant in kept.items()
        if grant["account"] == account
    ]


async def granted(hub):
    """How many authorizations the hub keeps."""
    states = await hub.hub.ground.vault.states()
    found = [theirs[REMOTE] for theirs in states.values() if REMOTE in theirs]
    return sum(OAUTH_SLOT in state.slots for state in found)


@pytest.mark.parametrize("withdraw", WAYS)
async def test_a_flow_ends_with_what_it_was_begun_with(hub, server, withdraw):
    async with Browser("mallory@example") as stranger, Browser("bob@example") as bobs:
        back = await stranger.log_in(await stranger.page(hub, "alice"))
        bobs_way = await bobs.log_in(await bobs.page(hub, "bob"))
        await withdraw(hub)
        await hub.hub.refresh()
        assert (await stranger.http.get(back)).status_code == 404
        assert server.authority.token_requests == []
        assert await granted(hub) == 0
        assert (await bobs.http.get(bobs_way)).status_code == 200
    async with connected(hub, "bob", REMOTE) as bob:
        assert await text_of(bob, "recall") == "you are bob@example"


@pytest.mark.parametrize("withdraw", WAYS)
async def test_tokens_that_come_too_late_are_kept_by_nobody_and_revoked(hub, server, withdraw):
    async with Browser("alice@example") as browser:
        back = await browser.log_in(await browser.page(hub, "alice"))
        server.authority.hold = asyncio.Event()
        ends = asyncio.create_task(browser.http.get(back))
        await until(lambda: server.authority.token_requests)
        await withdraw(hub)
        await hub.hub.refresh()
        server.authority.hold.set()
        assert (await ends).status_code == 404
    assert len(server.authority.revocations) == 1
    assert not alive(server, "alice@example")
    assert await granted(hub) == 0


async def test_what_a_refresh_gives_after_the_authorization_was_deleted_is_revoked(hub, server):
    for user in ("alice", "bob"):
        assert (await connect(hub, user)).status_code == 204
    authority, end = server.authority, server.authority.end
    authority.end = lambda _token: None  # it has rotated that one by now: there is nothing to end
    authority.hold = asyncio.Event()
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        for token in authority.of("alice@example"):
            del authority.access[token]
        call = asyncio.create_task(alice.post(CALL))
        await until(lambda: [f for f in authority.token_requests if "refresh_token" in f])
        async with httpx2.AsyncClient() as http:
            place = f"{hub.url}/api/me/credentials/{REMOTE}/{OAUTH_SLOT}"
            gone = await http.delete(place, headers=hub.headers("alice"))
            assert gone.json() == {"revoked": True}
        authority.end = end
        authority.hold.set()
        await call
    assert len(authority.revocations) == 2
    assert not alive(server, "alice@example")
    assert alive(server, "bob@example")


async def test_an_authorization_and_its_audit_event_are_made_and_deleted_together(hub, server):
    """What the log cannot tell of is not done: neither alice's beginning nor bob's end."""
    db, audit = hub.hub.ground.db, hub.hub.ground.audit
    assert (await connect(hub, "bob")).status_code == 204
    async with db.write() as conn:
        await conn.execute(
            text(
                "CREATE TRIGGER no_event BEFORE INSERT ON audit_events "
                "BEGIN SELECT RAISE(ABORT, 'none'); END"
            )
        )
    place = f"{hub.url}/api/me/credentials/{REMOTE}/{OAUTH_SLOT}"
    async with Browser("alice@example") as browser:
        back = await browser.log_in(await browser.page(hub, "alice"))
        assert (await browser.http.get(back)).status_code == 500
        assert (await browser.http.delete(place, headers=hub.headers("bob"))).status_code == 500
    assert not alive(server, "alice@example") and alive(server, "bob@example")
    assert len(server.authority.revocations) == 1
    assert await granted(hub) == 1
    async with db.write() as conn:
        await conn.execute(text("DROP TRIGGER no_event"))
    async with Browser("bob@example") as browser:
        gone = await browser.http.delete(place, headers=hub.headers("bob"))
    assert gone.json() == {"revoked": True}
    users = {user.id: user.name for user in await hub.hub.ground.directory.users()}
    told = [
        (users[event.subject], users[event.actor], event.action, event.detail["slot"])
        for event in await audit.recent()
        if event.action.startswith("credential:")
    ]
    assert sorted(told) == [
        ("bob", "bob", f"credential:{what}", OAUTH_SLOT) for what in ("deleted", "revoked", "set")
    ]


async def test_an_authorization_of_another_issuer_than_the_settings_name_counts_no_more(
    hub, server
):
    for user in ("alice", "bob"):
        assert (await connect(hub, user)).status_code == 204

    async def name_issuer(url):
        entry = protected(server, groups=["team"], oauth={"issuer": url})
        write_servers(hub.hub.ground.settings.dir, {REMOTE: entry})
        await hub.hub.reload()

    for user in ("alice", "bob"):
        await name_issuer(server.authority.url)
        async with connected(hub, user, REMOTE) as client:
            assert await text_of(client, "recall") == f"you are {user}@example"
        await name_issuer("https://another.example")
        seen = len(server.requests)
        async with raw_client(hub, user, REMOTE) as client:
            assert "not connected" in (await client.open()).text
        assert len(server.requests) == seen
