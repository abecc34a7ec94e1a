"""Key files that become unusable under a running hub: nothing is lost, and revocations count all the same."""

import json

import httpx2
import pytest

from mcphub.ground import ground
from tests.interaction.clients import connected, plain, raw_client, request, text_of
from tests.polling import until

pytestmark = pytest.mark.anyio
WHO = request("tools/call", {"name": "who", "arguments": {}})
SECRETS = {user: f"secret-of-{user}" for user in ("alice", "bob")}


async def put(hub, user, value):
    async with httpx2.AsyncClient() as http:
        place = f"{hub.url}/api/me/credentials/plain/TOKEN"
        return await http.put(place, json={"value": value}, headers=hub.headers(user))


@pytest.fixture
async def hub(hub_of):
    async with hub_of({"plain": plain(env={"TOKEN": "${USER_TOKEN}"})}) as found:
        for user, value in SECRETS.items():
            assert (await put(found, user, value)).status_code == 204
        yield found


async def token_of(hub, user):
    async with connected(hub, user) as client:
        return json.loads(await text_of(client, "who"))["env"]["TOKEN"]


@pytest.mark.parametrize("how", ["open to others", "no keys", "gone"])
async def test_a_revocation_counts_while_the_signing_keys_cannot_be_used(hub, how):
    file = hub.hub.ground.settings.context_key_file
    if how == "gone":
        file.unlink()
    else:
        file.write_text(file.read_text() + "\n" if how == "open to others" else "nothing")
        file.chmod(0o644 if how == "open to others" else 0o600)
    directory = hub.hub.ground.directory
    (key,) = await directory.keys((await directory.user("alice")).id)
    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        assert (await alice.open()).status_code == 200
        assert (await bob.open()).status_code == 200
        await directory.revoke_key(key.id)  # as another process does that tells the hub nothing
        await until(lambda: key.id not in known_keys(hub))
        assert (await alice.post(WHO)).status_code == 401
        assert (await bob.post(WHO)).status_code == 200


def known_keys(hub):
    found = (hub.hub.access.authenticate(key) for key in hub.keys.values())
    return {principal.key_id for principal in found if principal is not None}


async def test_the_look_after_changes_goes_on_whatever_fails_in_it(hub, monkeypatch):
    def fails():
        raise RuntimeError("nobody expects this")

    monkeypatch.setattr(hub.hub.ground.signer, "refresh", fails)
    monkeypatch.setattr(hub.hub.sessions, "sweep", fails)
    directory = hub.hub.ground.directory
    for user in ("alice", "bob"):
        (key,) = await directory.keys((await directory.user(user)).id)
        await directory.revoke_key(key.id)
        await until(lambda key=key: key.id not in known_keys(hub))


async def test_a_vault_whose_key_file_is_gone_opens_from_memory_and_seals_nothing(hub):
    settings = hub.hub.ground.settings
    kept = settings.key_file.read_bytes()
    settings.key_file.unlink()
    async with ground(settings, beside=True) as beside:  # what each command opens
        await beside.vault.listing(await beside.directory.principal_of("alice"))
    assert (await put(hub, "alice", "another")).status_code == 503
    assert not settings.key_file.exists()
    assert await token_of(hub, "alice") == SECRETS["alice"]
    assert await token_of(hub, "bob") == SECRETS["bob"]
    settings.key_file.write_bytes(kept)
    settings.key_file.chmod(0o600)
    assert (await put(hub, "alice", "another")).status_code == 204
    assert await token_of(hub, "alice") == "another"
    assert await token_of(hub, "bob") == SECRETS["bob"]


async def test_a_hub_that_starts_without_its_key_file_makes_none_and_goes_on_when_it_is_back(
    hub_of, tmp_path
):
    servers = {"plain": plain(env={"TOKEN": "${USER_TOKEN}"})}
    async with hub_of(servers) as hub:
        assert (await put(hub, "alice", SECRETS["alice"])).status_code == 204
    file = tmp_path / "hub" / "keys" / "vault.keys"
    kept = file.read_bytes()
    file.unlink()
    async with hub_of(servers) as hub:
        assert (await put(hub, "bob", SECRETS["bob"])).status_code == 503
        async with raw_client(hub, "alice") as alice:
            await alice.open()
            assert SECRETS["alice"] not in (await alice.post(WHO)).text
        assert not file.exists()
        file.write_bytes(kept)
        file.chmod(0o600)
        assert await token_of(hub, "alice") == SECRETS["alice"]
        assert (await put(hub, "bob", SECRETS["bob"])).status_code == 204
        assert await token_of(hub, "bob") == SECRETS["bob"]
