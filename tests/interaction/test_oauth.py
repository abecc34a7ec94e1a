"""Servers that require OAuth: two users, each with an own account, through a real hub."""

import asyncio
import socket

import anyio
import pytest

from mcphub.secret import OAUTH_SLOT
from mcphub.upstream.posting import _MARK
from tests.interaction.accounts import REMOTE, Browser, begin, confirm, connect, protected
from tests.interaction.clients import MODERN, connected, raw_client, request, text_of
from tests.polling import until
from tests.servers.oauth_http import ProtectedStream, protected_server

pytestmark = pytest.mark.anyio
CALL = request("tools/call", {"name": "recall", "arguments": {}})


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_two_users_work_with_their_own_accounts(hub, server, mode):
    assert (await connect(hub, "alice")).status_code == 204
    assert (await connect(hub, "bob")).status_code == 204
    async with connected(hub, "alice", REMOTE, mode) as alice:
        async with connected(hub, "bob", REMOTE, mode) as bob:
            assert await text_of(alice, "recall") == "you are alice@example"
            assert await text_of(bob, "recall") == "you are bob@example"
            assert await text_of(alice, "recall") == "you are alice@example"


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_streams_of_the_first_transport_carry_the_token_of_their_user(hub_of, mode):
    async with protected_server(ProtectedStream) as server:
        async with hub_of({REMOTE: protected(server, type="sse")}) as hub:
            for user in ("alice", "bob"):
                assert (await connect(hub, user)).status_code == 204
            async with (
                connected(hub, "alice", REMOTE, mode) as alice,
                connected(hub, "bob", REMOTE, mode) as bob,
            ):
                assert await text_of(alice, "get") == "you are alice@example"
                assert await text_of(bob, "get") == "you are bob@example"
                expired(server, "alice@example")
                assert await text_of(alice, "get") == "you are alice@example"
        assert len(refreshes(server)) == 1


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


async def test_a_server_whose_settings_lack_oauth_says_what_is_missing(hub_of, server):
    async with hub_of({REMOTE: protected(server) | {"oauth": None}}) as hub:
        async with raw_client(hub, "root", REMOTE) as root:
            assert '\\"oauth\\": {}' in (await root.open()).text
    assert server.authority.registered == {}


# ---------------------------------------------------------------- refreshing (R16)


def refreshes(server):
    return [form for form in server.authority.token_requests if form["grant_type"] != CODE]


CODE = "authorization_code"


async def stored(hub, user):
    """The grant as the vault has it."""
    principal = await hub.hub.ground.directory.principal_of(user)
    _, permit = hub.hub.access.permit(principal, REMOTE)
    grant, _ = await hub.hub.ground.grants.stored(permit)
    return grant


async def test_calls_in_parallel_wait_for_one_refresh_and_nobody_elses(hub, server):
    for user in ("alice", "bob"):
        await connect(hub, user)
    async with raw_client(hub, "alice", REMOTE) as alice, raw_client(hub, "bob", REMOTE) as bob:
        await alice.open()
        await bob.open()
        expired(server, "alice@example")
        server.authority.hold = asyncio.Event()
        answers = []

        async def call(number):
            answers.append((await alice.post(CALL | {"id": number})).text)

        async with anyio.create_task_group() as calls:
            for number in range(12):
                calls.start_soon(call, number)
            await until(lambda: refreshes(server))
            assert "you are bob@example" in (await bob.post(CALL)).text
            server.authority.hold.set()
        assert len(answers) == 12 and all("you are alice@example" in text for text in answers)
    assert len(refreshes(server)) == 1


def expired(server, account):
    """Let the server forget the access tokens of an account; the refresh token still counts."""
    for token in server.authority.of(account):
        del server.authority.access[token]


async def test_a_token_that_is_about_to_end_is_renewed_before_it_is_used(hub, server):
    server.authority.lives_s = 20
    await connect(hub, "alice")
    server.authority.lives_s = 3600
    async with connected(hub, "alice", REMOTE) as alice:
        assert await text_of(alice, "recall") == "you are alice@example"
    assert len(refreshes(server)) == 1


async def test_a_new_token_is_stored_before_it_is_used(hub, server):
    await connect(hub, "alice")
    seen, first = [], (await stored(hub, "alice")).access.reveal()

    async def look(token):
        if token != first:
            seen.append((token, (await stored(hub, "alice")).access.reveal()))

    server.on_token = look
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        expired(server, "alice@example")
        assert "you are alice@example" in (await alice.post(CALL)).text
    assert refreshes(server) and seen and all(used == kept for used, kept in seen)


async def test_a_new_token_that_could_not_be_stored_is_stored_later_and_not_asked_for_again(
    hub, server
):
    for user in ("alice", "bob"):
        await connect(hub, user)
    async with raw_client(hub, "alice", REMOTE) as alice, raw_client(hub, "bob", REMOTE) as bob:
        await alice.open()
        await bob.open()
        expired(server, "alice@example")
        await in_database(
            hub,
            "CREATE TRIGGER no BEFORE UPDATE ON credentials BEGIN SELECT RAISE(FAIL, 'no'); END",
        )
        for _ in range(2):
            assert (await alice.post(CALL)).json()["error"]["data"]["code"] == "unavailable"
        assert "you are bob@example" in (await bob.post(CALL)).text
        await in_database(hub, "DROP TRIGGER no")
        assert "you are alice@example" in (await alice.post(CALL)).text
        expired(server, "alice@example")
        assert "you are alice@example" in (await alice.post(CALL)).text
    assert len(refreshes(server)) == 2
    assert not server.authority.dead


async def in_database(hub, statement):
    async with hub.hub.ground.db.write() as conn:
        await conn.exec_driver_sql(statement)


async def test_a_caller_that_gives_up_does_not_lose_the_rotated_token(hub, server):
    await connect(hub, "alice")
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        before = (await stored(hub, "alice")).refresh
        expired(server, "alice@example")
        server.authority.hold = asyncio.Event()
        async with anyio.create_task_group() as calls:
            calls.start_soon(alice.modern, "tools/call", {"name": "recall", "arguments": {}})
            await until(lambda: refreshes(server))
            calls.cancel_scope.cancel()
        server.authority.hold.set()
        with anyio.fail_after(20):
            while (await stored(hub, "alice")).refresh == before:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert "you are alice@example" in (await alice.post(CALL)).text
    assert len(refreshes(server)) == 1


async def test_an_authorization_server_that_is_down_ends_no_grant(hub, server):
    await connect(hub, "alice")
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        expired(server, "alice@example")
        server.authority.refuses_refresh = 503
        told = (await alice.post(CALL)).text
        assert "its authorization server failed (HTTP 503)" in told
        server.authority.refuses_refresh = 0
        assert "you are alice@example" in (await alice.post(CALL)).text


async def test_a_revoked_authorization_is_told_with_the_next_step(hub, server):
    for user in ("alice", "bob"):
        await connect(hub, user)
    async with raw_client(hub, "alice", REMOTE) as alice, raw_client(hub, "bob", REMOTE) as bob:
        await alice.open()
        await bob.open()
        for token in server.authority.of("alice@example"):
            server.authority.end(token)
        told = (await alice.post(CALL)).json()["result"]
        assert told["isError"]
        assert f"{hub.url}/oauth/connect/{REMOTE}" in told["content"][0]["text"]
        assert "you are bob@example" in (await bob.post(CALL)).text
        assert (await connect(hub, "alice")).status_code == 204
        assert "you are alice@example" in (await alice.post(CALL)).text


async def test_more_rights_are_asked_for_when_a_call_needs_them(hub, server):
    server.needs = {"remember": "notes:write"}
    await connect(hub, "alice")
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        write = request("tools/call", {"name": "remember", "arguments": {"value": "x"}})
        told = (await alice.post(write)).json()["result"]
        assert told["isError"] and "notes:write" in told["content"][0]["text"]
        assert f"{hub.url}/oauth/connect/{REMOTE}" in told["content"][0]["text"]
        assert "you are alice@example" in (await alice.post(CALL)).text  # the others go on
        await connect(hub, "alice")
        assert set(server.authority.authorized[-1]["scope"].split()) == {
            "notes:read",
            "notes:write",
        }
        assert "isError" not in (await alice.post(write)).json()["result"]


# ---------------------------------------------------------------- who comes back (R15)


@pytest.mark.parametrize(
    ("iss", "advertised", "ends"),
    [
        (True, True, "connected"),
        (False, None, "connected"),
        (False, True, "not come from the authorization server"),
        ("https://evil.example", True, "not come from the authorization server"),
        ("https://evil.example", None, "not come from the authorization server"),
    ],
)
async def test_only_the_issuer_that_was_asked_may_answer(hub, server, iss, advertised, ends):
    server.authority.iss = iss
    server.authority.metadata = {"authorization_response_iss_parameter_supported": advertised}
    async with Browser("alice@example") as browser:
        done = await browser.connect(hub, "alice")
    assert ends in done.text
    assert bool(server.authority.token_requests) is (ends == "connected")


async def test_an_answer_is_taken_once(hub, server):
    async with Browser("alice@example") as browser:
        back = await browser.log_in(await browser.page(hub, "alice"))
        cookie = "; ".join(f"{name}={value}" for name, value in browser.http.cookies.items())
        assert (await browser.http.get(back)).status_code == 200
        again = await browser.http.get(back, headers={"Cookie": cookie})
    assert cookie and again.status_code == 404
    assert len(server.authority.token_requests) == 1


async def test_an_answer_in_another_browser_connects_nothing(hub, server):
    async with Browser("alice@example") as hers, Browser("bob@example") as his:
        sent = await his.log_in(await hers.page(hub, "alice"))  # bob follows alice's link
        await his.page(hub, "bob")  # and has a cookie of his own flow
        assert (await his.http.get(sent)).status_code == 404
        assert (await hers.http.get(sent)).status_code == 404  # the state is used up
    assert server.authority.token_requests == []


async def test_a_confirmation_is_for_the_user_and_server_that_it_was_made_for(hub, server):
    async with Browser("bob@example") as browser:
        page = await browser.http.get((await begin(browser.http, hub, "alice")).json()["url"])
        back = await browser.http.get(await browser.log_in(page))
        handed = back.headers["location"].partition("confirmation=")[2]
        assert (await confirm(browser.http, hub, "bob", handed)).status_code == 404
        assert (await confirm(browser.http, hub, "alice", handed, "other")).status_code == 404
        assert server.authority.token_requests == []
        assert (await confirm(browser.http, hub, "alice", handed)).status_code == 204
        assert (await confirm(browser.http, hub, "alice", handed)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {},
        {"Origin": "", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_a_form_of_another_page_chooses_nobodys_key(hub, server, headers):
    async with Browser() as browser:
        place = f"{hub.url}/oauth/connect/{REMOTE}"
        sent = await browser.http.post(place, data={"key": hub.keys["bob"]}, headers=headers)
    assert sent.status_code == 403 and "set-cookie" not in sent.headers
    assert server.authority.registered == {}


async def test_the_page_takes_its_form_behind_a_proxy_that_sends_another_host_on(hub_of, server):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = {"public_url": "https://hub.example", "port": port}
    async with (
        hub_of({REMOTE: protected(server)}, overrides={"listen": listen}) as hub,
        Browser() as browser,
    ):
        for origin, status in (
            ("https://hub.example", 200),
            ("http://hub.example", 403),
            ("https://other.example", 403),
        ):
            sent = await browser.http.post(
                f"http://127.0.0.1:{port}/oauth/connect/{REMOTE}",
                data={"key": hub.keys["alice"]},
                headers={"Origin": origin},
            )
            assert sent.status_code == status, origin
            assert ("__Host-" in sent.headers.get("set-cookie", "")) == (status == 200)


@pytest.mark.parametrize(
    "place", ["https://evil.example/x", "http://127.0.0.1/x", "http://127.0.0.1:9@evil.example:80/"]
)
async def test_a_browser_is_sent_back_to_the_users_machine_only(hub, server, place):
    async with Browser() as browser:
        refused = await begin(browser.http, hub, "alice", return_to=place)
    assert refused.status_code == 400 and server.authority.registered == {}


async def test_a_user_begins_only_so_many_connections_and_ends_nobody_elses(hub, server):
    async with Browser("alice@example") as browser:
        begun = await asyncio.gather(*(begin(browser.http, hub, "alice") for _ in range(12)))
        assert sorted(each.status_code for each in begun) == [200] * 8 + [429] * 4
        assert len(server.authority.registered) == 8
        assert (await begin(browser.http, hub, "bob")).status_code == 200


async def test_a_declined_request_is_told(hub, server):
    async with Browser() as browser:  # logged in nowhere
        done = await browser.connect(hub, "alice")
    assert "access_denied" in done.text and server.authority.token_requests == []


# ---------------------------------------------------------------- what servers say of themselves


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"code_challenge_methods_supported": None}, "PKCE"),
        ({"issuer": "https://evil.example"}, "by another name"),
        ({"registration_endpoint": None}, "oauth.clientId"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "no usable URL"),
        ({"token_endpoint": "http://169.254.169.254/token"}, "not https"),
        ({"token_endpoint": "https://169.254.169.254/token"}, "not a public one"),
    ],
)
async def test_an_authorization_server_that_cannot_be_trusted_is_refused(
    hub, server, metadata, told
):
    server.authority.metadata = metadata
    async with Browser("alice@example") as browser:
        page = await browser.page(hub, "alice")
    assert page.status_code == 502 and told in page.text
    assert server.authority.authorized == []


async def test_a_server_that_names_another_resource_is_refused(hub, server):
    server.resource = "https://evil.example/mcp"
    async with Browser("alice@example") as browser:
        page = await browser.page(hub, "alice")
    assert page.status_code == 502 and "another resource" in page.text
    assert server.authority.registered == {}


async def test_a_token_goes_to_no_other_server_than_the_one_it_is_for(hub_of, server):
    from mcphub.testing.hub import write_servers

    async with hub_of({REMOTE: protected(server)}) as hub, protected_server() as other:
        await connect(hub, "alice")
        write_servers(hub.hub.ground.settings.dir, {REMOTE: protected(other)})
        await hub.hub.reload()
        async with raw_client(hub, "alice", REMOTE) as alice:
            assert "not connected" in (await alice.open()).text
    assert other.requests == []


async def test_a_client_of_the_settings_is_used_as_it_is(hub_of, server):
    async with hub_of({}) as probe:
        redirect = f"{probe.url}/oauth/callback"
    server.authority.metadata = {"registration_endpoint": None}
    oauth = {"clientId": "by-hand", "clientSecret": "${NOTES_SECRET}", "scopes": ["notes:read"]}
    entry = protected(server, oauth=oauth)
    port = int(redirect.split(":")[2].split("/")[0])
    os_env_secret = "of-the-operator/%"
    server.authority.registered["by-hand"] = {
        "client_secret": os_env_secret,
        "redirect_uris": [redirect],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTES_SECRET", os_env_secret)
        async with hub_of({REMOTE: entry}, overrides={"listen": {"port": port}}) as hub:
            assert (await connect(hub, "alice")).status_code == 204
            async with connected(hub, "alice", REMOTE) as alice:
                expired(server, "alice@example")
                assert await text_of(alice, "recall") == "you are alice@example"
    assert set(server.authority.registered) == {"by-hand"}


async def test_a_user_who_connects_again_is_not_registered_again(hub, server):
    await connect(hub, "alice")
    await connect(hub, "alice", "other@example")
    async with connected(hub, "alice", REMOTE) as alice:
        assert await text_of(alice, "recall") == "you are other@example"
    assert len(server.authority.registered) == 1
    await connect(hub, "bob")
    assert len(server.authority.registered) == 2


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize("lives", [10**400, "9" * 5000, -1, "soon", [], True])
async def test_whatever_a_token_is_said_to_live_it_is_used(hub, server, lives):
    issue = server.authority.issue
    server.authority.issue = lambda grant: issue(grant) | {"expires_in": lives}
    assert (await connect(hub, "alice")).status_code == 204
    async with connected(hub, "alice", REMOTE) as alice:
        assert await text_of(alice, "recall") == "you are alice@example"


async def test_metadata_of_any_depth_are_refused_like_missing_ones(hub, server):
    """Both the server's and those of its authorization server."""
    deep = "".join(["["] * 100_000)
    server.authority.describe_as = f'{{"issuer":{deep}'
    async with Browser() as browser:
        told = await begin(browser.http, hub, "alice")
    assert told.status_code == 502 and "has no metadata" in told.text


async def test_no_answer_to_a_user_holds_what_marks_the_hubs_own_errors(hub, server):
    """A server that learned it could speak in the hub's name to the users that share it."""
    await connect(hub, "alice")
    async with raw_client(hub, "alice", REMOTE) as alice:
        await alice.open()
        await alice.post(CALL)
        for token in server.authority.of("alice@example"):
            server.authority.end(token)
        told = await alice.post(request("resources/subscribe", {"uri": "note://1"}))
    assert told.json()["error"]["data"]["code"] == "missing_credential"
    assert _MARK not in told.text


async def test_a_deleted_authorization_is_revoked_and_used_no_more(hub, server):
    for user in ("alice", "bob"):
        await connect(hub, user)
    async with Browser() as browser:
        place = f"{hub.url}/api/me/credentials/{REMOTE}/{OAUTH_SLOT}"
        gone = await browser.http.delete(place, headers=hub.headers("alice"))
        assert gone.json() == {"revoked": True}
        assert (await browser.http.delete(place, headers=hub.headers("alice"))).status_code == 404
        put = await browser.http.put(place, headers=hub.headers("bob"), json={"value": "x"})
        assert put.status_code == 400 and "credential connect" in put.json()["hint"]
    assert len(server.authority.revocations) == 1
    assert not server.authority.of("alice@example") and server.authority.of("bob@example")
    async with raw_client(hub, "alice", REMOTE) as alice, raw_client(hub, "bob", REMOTE) as bob:
        assert "not connected" in (await alice.open()).text
        await bob.open()
        assert "you are bob@example" in (await bob.post(CALL)).text


async def test_off_boarding_revokes_what_the_user_had_granted(hub, server):
    from mcphub.offboarding import destroy

    for user in ("alice", "bob"):
        await connect(hub, user)
    directory = hub.hub.ground.directory
    alice = await directory.user("alice")
    await directory.disable_user(alice.id)
    await hub.hub.refresh()
    gone = await destroy(hub.hub.ground, alice.id, actor="test", stopped=0)
    assert (gone.credentials, gone.revoked, gone.not_revoked) == (1, 1, 0)
    assert not server.authority.of("alice@example") and server.authority.of("bob@example")


async def test_no_token_code_or_key_is_told_to_anybody(hub, server, capfd, caplog):
    caplog.set_level("DEBUG")
    pages = []
    server.authority.lives_s = 1
    for user in ("alice", "bob"):
        async with Browser(f"{user}@example") as browser:
            page = await browser.page(hub, user)
            pages += [page.text, (await browser.http.get(await browser.log_in(page))).text]
        async with raw_client(hub, user, REMOTE) as client:
            pages += [(await client.open()).text, (await client.post(CALL)).text]
    for token in [*server.authority.access]:
        server.authority.end(token)
    async with raw_client(hub, "alice", REMOTE) as client:
        pages += [(await client.open()).text, (await client.post(CALL)).text]
    events = await hub.hub.ground.audit.recent(limit=1000)
    secret = {
        value
        for form in server.authority.token_requests
        for name, value in form.items()
        if name in {"code", "code_verifier", "refresh_token"}
    }
    secret |= {known["client_secret"] for known in server.authority.registered.values()}
    secret |= {
        headers["authorization"].removeprefix("Bearer ")
        for _, headers, _ in server.requests
        if "authorization" in headers
    }
    logged = [
        f"{r.name} {r.getMessage()}" for r in caplog.records if not r.name.startswith("http")
    ]  # ours
    told = "".join([*pages, *logged, *capfd.readouterr(), repr(events)])
    files = b"".join(
        path.read_bytes()
        for path in hub.hub.ground.settings.dir.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    assert len(secret) > 8
    assert not [value for value in secret if value in told]
    assert not [value for value in secret if value.encode() in files]
