"""Servers behind a URL: one connection per user, with that user's credentials and nothing of the client's."""

import json
from urllib.parse import parse_qsl, unquote

import anyio
import pytest

from mcphub.catalog.problems import SettingsError
from mcphub.secret import Secret
from tests.interaction.clients import MODERN, connected, raw_client, request, text_of
from tests.servers.recording_http import recording_server

pytestmark = pytest.mark.anyio


def remote(url, **fields):
    """Settings of an HTTP server with a credential per user."""
    return {
        "type": "http",
        "url": url,
        "headers": {"Authorization": "Bearer ${USER_REMOTE_TOKEN}"},
        "groups": ["everyone"],
        "riskLevel": "critical",
        **fields,
    }


async def tokens(hub, *users):
    """Give each user an own token for `remote`."""
    for user in users:
        principal = await hub.hub.ground.directory.principal_of(user)
        await hub.hub.ground.vault.put(
            principal, "remote", "REMOTE_TOKEN", Secret(f"token-of-{user}")
        )
    await hub.hub.refresh()


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_each_user_has_an_own_connection_with_own_credentials(hub_of, mode):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice", "bob")
        async with (
            connected(hub, "alice", "remote", mode) as alice,
            connected(hub, "bob", "remote", mode) as bob,
        ):
            await text_of(alice, "remember", {"value": "alice's"})
            assert await text_of(bob, "recall") == "None"
            assert await text_of(alice, "recall") == "alice's"
        sessions = {}
        for _, headers, message in server.requests:
            if message.get("method") == "tools/call":
                sessions.setdefault(headers["authorization"], set()).add(headers["mcp-session-id"])
        assert set(sessions) == {"Bearer token-of-alice", "Bearer token-of-bob"}
        assert all(len(ids) == 1 for ids in sessions.values())
        assert sessions["Bearer token-of-alice"] != sessions["Bearer token-of-bob"]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "of one line\n", "bell \x07"])
async def test_a_credential_that_no_header_can_carry_is_told_at_once(hub_of, value):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "bob")
        async with (
            raw_client(hub, "alice", "remote") as alice,
            raw_client(hub, "bob", "remote") as bob,
        ):
            path = f"{hub.url}/api/me/credentials/remote/REMOTE_TOKEN"
            assert (await alice.http.put(path, json={"value": value})).status_code == 204
            with anyio.fail_after(20):
                told = (await alice.modern("tools/call", {"name": "recall"})).json()["result"]
            assert told["isError"] and "REMOTE_TOKEN" in told["content"][0]["text"]
            assert "line break" in told["content"][0]["text"]
            assert value not in told["content"][0]["text"] and not server.requests
            assert "result" in (await bob.modern("tools/call", {"name": "recall"})).json()


IN_URL = {"headers": {"X-Operator": "operators"}}


@pytest.mark.parametrize(
    "value", ["plain-1", "../../admin", "a/b?c=d#e&key=mine", "50%+é ", "%2e%2e", "%2F", "a;b=c"]
)
async def test_a_value_in_a_url_is_one_part_of_it(hub_of, value):
    """The operator's own headers and parameters are for the rest of it."""
    async with recording_server() as server:
        url = server.url + "/of/${USER_TENANT}/mcp?t=${USER_TENANT}&key=operators"
        async with hub_of({"remote": remote(url, **IN_URL)}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                path = f"{hub.url}/api/me/credentials/remote/TENANT"
                assert (await alice.http.put(path, json={"value": value})).status_code == 204
                await alice.modern("tools/call", {"name": "recall"})
        (target,) = set(server.targets)
        path, _, query = target.partition("?")
        assert [unquote(part) for part in path.split("/")] == ["", "mcp", "of", value, "mcp"]
        assert parse_qsl(query) == [("t", value), ("key", "operators")]


@pytest.mark.parametrize("value", ["..", "."])
async def test_a_value_in_a_url_chooses_no_other_path(hub_of, value):
    async with recording_server() as server:
        url = server.url + "/of/${USER_TENANT}/mcp"
        async with hub_of({"remote": remote(url, **IN_URL)}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                path = f"{hub.url}/api/me/credentials/remote/TENANT"
                assert (await alice.http.put(path, json={"value": value})).status_code == 204
                told = (await alice.modern("tools/call", {"name": "recall"})).json()["result"]
                assert told["isError"] and "TENANT" in told["content"][0]["text"]
            async with raw_client(hub, "bob", "remote") as bob:
                path = f"{hub.url}/api/me/credentials/remote/TENANT"
                assert (await bob.http.put(path, json={"value": "bobs"})).status_code == 204
                assert "result" in (await bob.modern("tools/call", {"name": "recall"})).json()
        assert set(server.targets) == {"/mcp/of/bobs/mcp"}


async def test_a_list_that_failed_is_told_and_not_kept_as_an_empty_one(hub_of):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice")
        async with raw_client(hub, "alice", "remote") as alice:
            await alice.open()
            server.list_fails = True
            told = (await alice.post(request("tools/list"))).json()
            assert "failed at tools/list: not now" in told["error"]["message"]
            server.list_fails = False
            assert (await alice.post(request("tools/list"))).json()["result"]["tools"]


async def test_nothing_of_the_clients_headers_passes_through(hub_of):
    inbound = {
        "Cookie": "a=b",
        "X-MCPHub-User-Id": "u_forged",
        "X-Forwarded-User": "root",
        "X-Other": "1",
    }
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice")
        async with raw_client(hub, "alice", "remote", **inbound) as alice:
            await alice.open()
            await alice.post(request("tools/call", {"name": "recall", "arguments": {}}))
            for _, headers, _ in server.requests:
                assert hub.keys["alice"] not in json.dumps(headers)
                assert not {"cookie", "x-mcphub-user-id", "x-forwarded-user", "x-other"} & set(
                    headers
                )
                assert headers.get("mcp-session-id") != alice.headers["Mcp-Session-Id"]


@pytest.mark.parametrize("subject", ["pairwise", "global"])
async def test_a_user_aware_server_is_told_the_opaque_user_id(hub_of, subject):
    async with recording_server() as server:
        context = {"subject": subject}
        aware = remote(server.url, userAware=True, userContext=context)
        async with hub_of({"remote": aware}) as hub:
            await tokens(hub, "alice", "bob")
            told = {}
            for user in ("alice", "bob"):
                async with connected(hub, user, "remote") as client:
                    await text_of(client, "recall")
                principal = await hub.hub.ground.directory.principal_of(user)
                pairwise = hub.hub.ground.signer.subject(principal.user_id, server.url)
                own = pairwise if subject == "pairwise" else principal.user_id
                told[f"Bearer token-of-{user}"] = own
            seen = {
                headers["authorization"]: headers["x-mcphub-user-id"]
                for _, headers, _ in server.requests
            }
            assert seen == told


async def test_nobody_connects_before_a_credential_is_set(hub_of):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        async with raw_client(hub, "bob", "remote") as bob:
            refused = (await bob.open()).json()["error"]
            assert "REMOTE_TOKEN" in refused["message"]
        async with connected(hub, "bob", "") as bob:
            assert (await bob.list_tools()).tools == []
        assert server.requests == []


async def test_progress_and_a_large_streamed_answer_arrive(hub_of):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice")
        seen = []

        async def progress(done, total, message):
            seen.append(done)

        async with connected(hub, "alice", "remote") as alice:
            result = await alice.call_tool("steps", {}, progress_callback=progress)
        assert seen == [1, 2] and len(result.content[0].text) == 200_000


async def test_a_lost_session_is_told_and_the_next_call_works(hub_of):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice")
        async with raw_client(hub, "alice", "remote") as alice:
            await alice.open()
            call = request("tools/call", {"name": "recall", "arguments": {}})
            assert "None" in (await alice.post(call)).text
            server.sessions.clear()
            assert "ended the session" in (await alice.post(call)).text
            assert "None" in (await alice.post(call)).text


async def test_refused_credentials_and_redirects_are_clear_errors(hub_of):
    async with recording_server() as server, recording_server() as elsewhere:
        async with hub_of({"remote": remote(server.url)}) as hub:
            await tokens(hub, "alice")
            async with raw_client(hub, "alice", "remote") as alice:
                await alice.open()
                moved = await alice.post(
                    request("tools/call", {"name": "redirect", "arguments": {"to": elsewhere.url}})
                )
                assert "HTTP 307" in moved.text and elsewhere.requests == []
                server.refuse = 401
                refused = await alice.post(
                    request("tools/call", {"name": "recall", "arguments": {}})
                )
                assert (
                    "refused your credentials" in refused.text
                    and "token-of-alice" not in refused.text
                )


async def test_a_user_cannot_choose_the_host_that_credentials_go_to(hub_of):
    with pytest.raises(SettingsError, match="host of a URL"):
        async with hub_of({"remote": remote("http://${USER_HOST}/mcp")}):
            pass


async def test_an_http_server_without_credentials_is_for_administrators(hub_of):
    async with recording_server() as server:
        async with hub_of({"remote": remote(server.url, headers={})}) as hub:
            async with (
                raw_client(hub, "alice", "remote") as alice,
                raw_client(hub, "root", "remote") as root,
            ):
                assert "error" in (await alice.open()).json()
                assert "result" in (await root.open()).json()


async def test_a_user_who_leaves_ends_the_session_at_the_server(hub_of):
    async with recording_server() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice", "bob")
        for user in ("alice", "bob"):
            async with connected(hub, user, "remote") as client:
                await text_of(client, "recall")
        assert len(server.sessions) == 2
        await hub.hub.ground.directory.disable_user("alice")
        await hub.hub.refresh()
        with anyio.fail_after(10):
            while len(server.sessions) != 1:  # noqa: ASYNC110
                await anyio.sleep(0.02)
