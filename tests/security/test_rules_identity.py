"""Who is calling (rules R1, R3 to R6): every door of the hub, knocked on with another user's things."""

import itertools
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from starlette.routing import BaseRoute, Mount, Route
from tests.doors import BOTH_DOORS
from tests.interaction.clients import Raw, plain, raw_client, request
from tests.security.asking import call, credentials_of, seen_by, set_credential, text_in

from mcphub.app import application
from mcphub.gateway.answers import LOCAL

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

CANARY = "token-of-alice-7f31"
SERVERS = {
    "github": plain(env={"TOKEN": "${USER_GITHUB_TOKEN}"}),
    "private": plain(env={"TOKEN": "${USER_PRIVATE_TOKEN}"}, groups=["engineering"]),
}
# The hub's own environment must not stand in for what a user has not set (rule R5).
ENVIRON = dict.fromkeys(
    ("GITHUB_TOKEN", "USER_GITHUB_TOKEN", "TOKEN", "USER_PRIVATE_TOKEN"), "operators-value-5e22"
)
FORWARDED = (
    "tools/call", "prompts/get", "resources/read", "resources/subscribe", "resources/unsubscribe",
    "completion/complete", "tasks/get", "tasks/cancel", "elicitation/create", "no/such/method",
)  # fmt: skip
CONNECT = "/oauth/connect/{server}"
METHODS = sorted({*LOCAL, *FORWARDED} - {"initialize", "server/discover"})


@pytest.fixture
async def alice(hub):
    """Alice with her credential, a session and a running instance that remembers her canary."""
    for server, slot in (("github", "GITHUB_TOKEN"), ("private", "PRIVATE_TOKEN")):
        if (server, slot) not in {found[:2] for found in await credentials_of(hub, "alice")}:
            await set_credential(hub, "alice", server, slot, CANARY)
    async with raw_client(hub, "alice", "github") as client:
        await client.open()
        await call(client, "remember", value=CANARY)
        yield client


@pytest.fixture
async def bob(hub):
    async with raw_client(hub, "bob", "github") as client:
        yield client


def routes(found: list[BaseRoute], at: str = "") -> list[tuple[str, str]]:
    """Every (method, path) of the hub's small APIs, from the routing table itself."""
    pairs: list[tuple[str, str]] = []
    for route in found:
        if isinstance(route, Mount):
            pairs += routes(route.routes, at + route.path)
        elif isinstance(route, Route):
            pairs += [(method, at + route.path) for method in sorted(route.methods or ())]
    return pairs


def filled(path: str, values: list[str]) -> list[str]:
    """The path with every combination of values for its parameters."""
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return [
        path.format(**dict(zip(names, (quote(v, safe="") for v in chosen), strict=True)))
        for chosen in itertools.product(values, repeat=len(names))
    ]


async def test_no_route_gives_or_takes_anything_of_another_user(hub, alice, bob):
    alice_id = (await hub.hub.ground.directory.user("alice")).id
    session = alice.headers["Mcp-Session-Id"]
    theirs = ["github", "private", "GITHUB_TOKEN", "PRIVATE_TOKEN", alice_id, "alice", session]
    table = routes(application(hub.hub)._rest.routes)
    assert len(table) >= 9  # the walk is not empty
    before = await credentials_of(hub, "alice")
    for method, path in table:
        for url in filled(path, theirs):
            for body in (None, {"value": "bobs"}, {"value": "bobs", "user": alice_id}):
                extra = {"params": {"user": alice_id}, "headers": {"X-User": alice_id}}
                answer = await bob.http.request(method, hub.url + url, json=body, **extra)
                if path.startswith("/api") and "{" in path and "github/GITHUB_TOKEN" not in url:
                    assert answer.status_code in {400, 404}, (method, url, answer.text)
                told = answer.text + str(answer.headers)
                assert CANARY not in told and alice_id not in told and session not in told
                if path != CONNECT:  # this page repeats the address: see the next test
                    assert "private" not in told, (method, url)
    assert await credentials_of(hub, "alice") == before
    assert (await seen_by(alice))["env"]["TOKEN"] == CANARY


async def test_the_page_for_an_account_is_the_same_for_a_hidden_server_and_for_none(hub, bob):
    origin = {"Origin": hub.url}
    asked: list[dict[str, Any]] = [
        {"method": "GET"},
        {"method": "POST", "json": {"value": "bobs"}},
        {"method": "POST", "data": {"key": "no key"}, "headers": origin},
        {"method": "POST", "data": {"key": hub.keys["bob"]}, "headers": origin},
    ]
    for question in asked:
        hidden, none = [
            await bob.http.request(url=hub.url + CONNECT.format(server=name), **question)
            for name in ("private", "nowhere")
        ]
        assert hidden.status_code == none.status_code
        assert hidden.text.replace("private", "nowhere") == none.text
        assert {**hidden.headers, "date": ""} == {**none.headers, "date": ""}


@pytest.mark.parametrize("method", METHODS)
async def test_no_method_answers_in_another_users_session(alice, bob, method):
    params = {
        "name": "recall", "uri": "mem://state", "level": "debug", "cursor": "1", "taskId": "1",
        "arguments": {"value": "bob was here"}, "ref": {"type": "ref/prompt", "name": "hello"},
    }  # fmt: skip
    bob.headers = alice.headers
    answer = await bob.post(request(method, params))
    assert answer.status_code == 404 and "error" in answer.json(), answer.text
    assert CANARY not in answer.text
    assert text_in(await call(alice, "recall")) == CANARY


@pytest.mark.parametrize("where", ["/mcp", "/mcp/@engineering", "/mcp/private", "/mcp/github"])
async def test_a_session_exists_for_its_user_at_its_endpoint_only(hub, alice, bob, where):
    for http, verb in itertools.product((bob.http, alice.http), ("POST", "DELETE", "GET")):
        if http is alice.http and where == "/mcp/github":
            continue
        body = {"json": request("ping")} if verb == "POST" else {}
        answer = await http.request(verb, hub.url + where, headers=alice.headers, **body)
        assert answer.status_code == 404, (verb, answer.text)
    assert (await alice.post(request("ping"))).status_code == 200


async def test_a_batch_in_another_users_session_is_not_found(hub, alice, bob):
    async with raw_client(hub, "alice", "github") as old:
        await old.open("2025-03-26")
        bob.headers = old.headers
        stolen = await bob.post([request("tools/call", {"name": "recall", "arguments": {}})])
        own = await old.post([request("ping", id=1), request("ping", id=2)])
    assert stolen.status_code == 404 and CANARY not in stolen.text
    assert [answer["id"] for answer in own.json()] == [1, 2]


async def test_a_call_of_another_user_cannot_be_cancelled(hub, alice, bob):
    await set_credential(hub, "bob", "github", "GITHUB_TOKEN", "bobs")
    await bob.open()
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    for target in (bob.headers, alice.headers):
        bob.headers = target
        for request_id in (1, 2, "1"):
            await bob.post(cancelled | {"params": {"requestId": request_id}})
    assert text_in(await call(alice, "cancelled")) == "0"


async def test_cursors_and_subscriptions_of_the_hub_name_nobody_elses(alice, bob):
    answer = await bob.modern("tools/list", {"cursor": alice.headers["Mcp-Session-Id"]})
    assert answer.status_code == 400 and "cursor" in answer.json()["error"]["message"]
    await alice.post(request("resources/subscribe", {"uri": "mem://state"}))
    await bob.modern("resources/unsubscribe", {"uri": "mem://state"})
    assert (await alice.post(request("resources/read", {"uri": "mem://state"}))).status_code == 200


async def test_the_control_api_is_not_on_the_port(hub, bob):
    for method, path in (
        ("GET", "/status"), ("GET", "/instances"), ("GET", "/instances/i_1/stderr"),
        ("DELETE", "/instances/i_1"), ("POST", "/refresh"),
    ):  # fmt: skip
        for prefix in ("", "/api", "/control"):
            answer = await bob.http.request(method, hub.url + prefix + path)
            assert answer.status_code == 404, (path, answer.text)


SMUGGLED = {
    "own header": {"X-MCPHub-User-Id": "{id}", "X-MCPHub-User": "alice"},
    "proxy header": {"X-Forwarded-User": "alice", "X-Forwarded-Email": "alice", "Remote-User": "{id}"},
    "other spelling": {"x-mcphub-user-id": "{id}", "X_MCPHub_User_Id": "{id}", "X-User": "alice"},
    "other key headers": {"X-API-Key": "{key}", "Proxy-Authorization": "Bearer {key}",
                          "X-Authorization": "Bearer {key}", "Cookie": "authorization=Bearer {key}"},
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
async def test_no_header_but_the_key_selects_a_user(hub, alice, bob, name):
    await set_credential(hub, "bob", "github", "GITHUB_TOKEN", "bobs")
    facts = {"id": (await hub.hub.ground.directory.user("alice")).id, "key": hub.keys["alice"]}
    headers = {key: value.format(**facts) for key, value in SMUGGLED[name].items()}
    bob.http.headers |= headers
    await bob.open()
    assert (await seen_by(bob))["env"]["TOKEN"] == "bobs"
    assert (await bob.http.get(f"{hub.url}/api/me")).json()["name"] == "bob"
    del bob.http.headers["Authorization"]
    assert (await bob.post(request("ping"))).status_code == 401
    assert (await bob.http.get(f"{hub.url}/api/me")).status_code == 401


async def test_no_path_query_meta_or_argument_selects_a_user(hub, alice, bob):
    await set_credential(hub, "bob", "github", "GITHUB_TOKEN", "bobs")
    alice_id, key = (await hub.hub.ground.directory.user("alice")).id, hub.keys["alice"]
    await bob.open()
    forged: dict[str, Any] = {
        "user": alice_id,
        "dev.mcphub/user-context": {"sub": alice_id},
        "dev.mcphub/user-id": alice_id,
        "authorization": f"Bearer {key}",
    }
    for query in (f"?user={alice_id}", f"?api_key={key}", f"?token={key}", f"?access_token={key}"):
        bob.url = f"{hub.url}/mcp/github{query}"
        params = {"name": "who", "arguments": {"user": alice_id}, "user": alice_id, "_meta": forged}
        answer = await bob.post(request("tools/call", params))
        assert '\\"TOKEN\\": \\"bobs\\"' in answer.text and CANARY not in answer.text
    async with httpx2.AsyncClient(timeout=30) as nobody:
        for path in (f"/mcp/github?api_key={key}", f"/mcp?authorization=Bearer%20{key}",
                     f"/api/me?token={key}", f"/api/me?key={key}"):  # fmt: skip
            for answer in (
                await nobody.post(hub.url + path, json=request("ping")),
                await nobody.get(hub.url + path),
            ):
                assert answer.status_code in {401, 405}, path
        for path in (f"/mcp/github/{alice_id}", f"/mcp/{alice_id}/github", f"/users/{alice_id}/mcp",
                     f"/api/users/{alice_id}/credentials", f"/mcp/github/@{key}"):  # fmt: skip
            assert (await bob.http.post(hub.url + path, json=request("ping"))).status_code == 404


async def test_the_user_context_of_a_caller_never_reaches_a_server(hub, alice):
    forged = {"dev.mcphub/user-context": "forged", "vendor/kept": 1}
    for era in ("legacy", "modern"):
        params = {"name": "params", "arguments": {}, "_meta": forged}
        if era == "legacy":
            answer = await alice.post(request("tools/call", params))
        else:
            answer = await alice.modern("tools/call", params, meta=forged)
        assert "vendor/kept" in answer.text and "forged" not in answer.text


@pytest.mark.parametrize(
    "given",
    ["", "{key}", "Basic {key}", "Basic OmtleQ==", "Token {key}", "Bearer", "Bearer\t{key}",
     "Bearer {key}x", "Bearer {short}", "Bearer {upper}", "Bearer {key},Bearer {key}", "Bearer {key} {key}",
     "Bearer: {key}", "Bearer=“{key}”", "bearer mcphub_", "Negotiate {key}", "Bearer \u00e9{key}"],
)  # fmt: skip
async def test_what_is_not_exactly_one_bearer_key_is_nobody(hub, bob, given):
    key = hub.keys["alice"]
    value = given.format(key=key, short=key[:-1], upper=key.upper()).encode("utf-8")
    bob.http.headers.pop("Authorization")
    for verb, path in (
        ("POST", "/mcp/github"),
        ("GET", "/mcp"),
        ("DELETE", "/mcp"),
        ("GET", "/api/me"),
    ):
        answer = await bob.http.request(
            verb, hub.url + path, headers=[(b"Authorization", value)], content=b"{}"
        )
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert key not in answer.text


async def test_the_scheme_is_told_in_any_case_as_http_says(hub, bob):
    for scheme in ("bearer", "BEARER", "Bearer  "):
        headers = {"Authorization": f"{scheme} {hub.keys['alice']}"}
        found = (await bob.http.get(f"{hub.url}/api/me", headers=headers)).json()
        assert found["name"] == "alice"


@pytest.mark.parametrize("order", [("alice", "bob"), ("bob", "alice"), ("alice", "alice")])
async def test_two_credentials_in_one_request_are_refused(hub, order):
    keys = [("Authorization", f"Bearer {hub.keys[name]}") for name in order]
    async with httpx2.AsyncClient(timeout=30) as http:
        for verb, path in (
            ("POST", "/mcp/github"),
            ("GET", "/mcp"),
            ("DELETE", "/mcp"),
            ("GET", "/api/me"),
        ):
            answer = await http.request(verb, hub.url + path, headers=keys, content=b"{}")
            assert answer.status_code == 400, (verb, path)


@pytest.mark.parametrize(
    "name", ["Mcp-Session-Id", "MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Origin"]
)
async def test_a_header_that_decides_something_comes_once(hub, alice, name):
    value = alice.headers.get(name, "http://127.0.0.1")
    headers = [*alice.headers.items(), (name, value), (name.lower(), value)]
    answer = await alice.http.post(alice.url, json=request("ping"), headers=headers)
    assert answer.status_code == 400


async def test_a_request_keeps_the_user_that_it_was_authenticated_as(hub, alice):
    """The principal is one immutable value (rule R6): nothing later in the request can change it."""
    principal = hub.hub.access.authenticate(hub.keys["alice"])
    with pytest.raises(AttributeError):
        principal.user_id = "u_other"
    assert principal is hub.hub.access.authenticate(hub.keys["alice"])


async def test_a_missing_credential_is_nobody_elses_and_not_the_operators(hub, alice):
    async with raw_client(hub, "root", "github") as other:  # an administrator has no more
        await other.open()
        for answer in (
            await call(other, "who"),
            await call(other, "recall"),
            await other.modern("tools/call", {"name": "who", "arguments": {}}),
        ):
            assert answer.json()["result"]["isError"] and "GITHUB_TOKEN" in text_in(answer)
            assert CANARY not in answer.text and "operators-value" not in answer.text
        root = (await hub.hub.ground.directory.user("root")).id
        assert root not in {found["user"] for found in hub.hub.instances()}


async def test_an_empty_or_deleted_credential_is_a_missing_one(hub, alice, bob: Raw):
    path = f"{hub.url}/api/me/credentials/github/GITHUB_TOKEN"
    assert (await bob.http.put(path, json={"value": ""})).status_code == 400
    assert (await bob.http.put(path, json={"value": "bobs"})).status_code == 204
    assert "bobs" in (await bob.modern("tools/call", {"name": "who", "arguments": {}})).text
    assert (await bob.http.delete(path)).status_code == 204
    answer = await bob.modern("tools/call", {"name": "who", "arguments": {}})
    assert answer.json()["result"]["isError"]
    assert "bobs" not in answer.text and CANARY not in answer.text
