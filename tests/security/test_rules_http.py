"""Host and Origin over real HTTP (rule R14), bounds of everything, and requests that are none."""

import json

import anyio
import httpx2
import pytest
from tests.doors import BOTH_DOORS
from tests.interaction.clients import plain, raw_client, request
from tests.polling import until
from tests.security.asking import call, text_in
from tests.security.raw_http import exchange, status_of

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

LIMIT = 64 * 1024
SERVERS = {"plain": plain(timeoutSeconds=20)}
OVERRIDES = {"limits": {"body_bytes": LIMIT, "sessions_per_user": 3, "calls_per_user": 4}}
ENDPOINTS = [
    ("POST", "/mcp/plain"), ("GET", "/mcp/plain"), ("DELETE", "/mcp/plain"), ("GET", "/mcp"),
    ("GET", "/api/me"), ("PUT", "/api/me/credentials/plain/X"), ("GET", "/healthz"), ("GET", "/readyz"),
]  # fmt: skip


def head(hub, line: str, *headers: str, user: str = "alice") -> bytes:
    """A request's head with the user's key."""
    key = f"Authorization: Bearer {hub.keys[user]}"
    return "\r\n".join([line, *headers, key, "", ""]).encode("latin-1")


@pytest.mark.parametrize("host", [
    "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::1].evil.example", "evil.example:80",
    "localhost:80@evil.example", "evil.example#localhost", "0.0.0.0", "[::2]", "[", "", "localhost:x", "127.0.0.1:80:80",
    "[::1", "xn--localhost", "localhost%00.evil.example", "169.254.169.254", "2130706433",
])  # fmt: skip
async def test_a_foreign_host_is_refused_at_every_door(hub, host):
    for verb, path in ENDPOINTS:
        line = f"{verb} {path} HTTP/1.1"
        answer = await exchange(hub.url, head(hub, line, f"Host: {host}", "Content-Length: 0"))
        assert status_of(answer) in {400, 403}, (path, answer)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_request_without_a_host_or_with_two_is_refused(hub, version):
    for verb, path in ENDPOINTS:
        line = f"{verb} {path} HTTP/{version}"
        assert status_of(await exchange(hub.url, head(hub, line, "Content-Length: 0"))) in {
            400,
            403,
        }
        twice = head(hub, line, "Host: localhost", "Host: localhost", "Content-Length: 0")
        assert status_of(await exchange(hub.url, twice)) == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "[::1]:8765", "LOCALHOST", "[::1]"])
async def test_an_own_host_is_answered(hub, host):
    answer = await exchange(hub.url, head(hub, "GET /api/me HTTP/1.1", f"Host: {host}"))
    assert status_of(answer) == 200


@pytest.mark.parametrize("origin", [
    "https://evil.example", "null", "http://localhost.evil.example", "http://localhost:80@evil.example", "http://[",
    "http://[::1].evil.example", "file://", "http://localhost:x", "chrome-extension://abc", "http://", "localhost", "",
])  # fmt: skip
async def test_a_foreign_origin_is_refused_at_every_door(hub, origin):
    for verb, path in ENDPOINTS:
        line = f"{verb} {path} HTTP/1.1"
        headers = ("Host: localhost", f"Origin: {origin}", "Content-Length: 0")
        assert status_of(await exchange(hub.url, head(hub, line, *headers))) == 403, path


async def test_the_host_of_an_absolute_request_line_does_not_count_instead(hub):
    line = "GET http://localhost/api/me HTTP/1.1"
    assert status_of(await exchange(hub.url, head(hub, line, "Host: evil.example"))) == 403


async def test_no_answer_lets_a_page_of_another_origin_read_it(hub):
    async with httpx2.AsyncClient(headers=hub.headers("alice"), timeout=30) as http:
        for verb in ("GET", "OPTIONS", "POST"):
            answer = await http.request(
                verb, f"{hub.url}/mcp/plain", headers={"Origin": "http://localhost"}
            )
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_body_over_the_limit_is_refused_however_it_is_sent(hub):
    big = json.dumps(request("tools/call", {"name": "echo", "x": "x" * LIMIT})).encode()

    async def pieces():
        for at in range(0, len(big), 10_000):
            yield big[at : at + 10_000]

    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        await alice.open()
        headers = alice.headers | {"Content-Type": "application/json"}
        whole = await alice.http.post(alice.url, content=big, headers=headers)
        chunked = await alice.http.post(alice.url, content=pieces(), headers=headers)
        assert whole.status_code == chunked.status_code == 413
        claimed = (
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {LIMIT + 1}",
        )
        start = head(hub, "POST /mcp/plain HTTP/1.1", *claimed)
        assert status_of(await exchange(hub.url, start)) == 413  # before a byte of it came
        path = f"{hub.url}/api/me/credentials/plain/X"
        assert (await alice.http.put(path, content=big, headers=headers)).status_code in {400, 404}
        assert (await bob.open()).status_code == 200


async def test_a_body_that_never_comes_keeps_nobody_waiting(hub):
    slow = head(
        hub, "POST /mcp/plain HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 9999",
    )  # fmt: skip

    async def drip():
        with anyio.move_on_after(30):
            await exchange(hub.url, slow, b"{", seconds=60)

    async with anyio.create_task_group() as group, raw_client(hub, "bob") as bob:
        for _ in range(40):
            group.start_soon(drip)
        with anyio.fail_after(20):
            await bob.open()
            assert text_in(await call(bob, "echo", text="quick")) == "quick"
        group.cancel_scope.cancel()


async def test_a_user_with_too_many_sessions_loses_the_longest_idle_one(hub):
    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        await bob.open()
        opened = []
        for _ in range(4):
            alice.headers = {}
            await alice.open()
            opened.append(alice.headers)
            if len(opened) == 3:
                for headers in (opened[1], opened[0]):  # the second one is idle longer now
                    alice.headers = headers
                    await alice.post(request("ping"))
        answers = []
        for alice.headers in opened:
            answers.append((await alice.post(request("ping"))).status_code)
        assert answers[3] == 200 and answers[2] == 404 and answers.count(404) == 1
        assert (await bob.post(request("ping"))).status_code == 200


async def test_too_many_calls_in_flight_are_a_limit_of_one_user_only(hub):
    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        await alice.open()
        await bob.open()
        alice_id = (await hub.hub.ground.directory.user("alice")).id
        async with anyio.create_task_group() as group:
            for n in range(4):
                params = {"name": "slow", "arguments": {"seconds": 15}}
                group.start_soon(alice.post, request("tools/call", params, id=f"s{n}"))
            await until(lambda: hub.hub.plane.in_flight.get(alice_id) == 4)
            error = (await alice.post(request("ping", id="x"))).json()["error"]
            assert error["data"]["code"] == "limit_exceeded" and "in flight" in error["message"]
            assert text_in(await call(bob, "echo", text="free")) == "free"
            for n in range(4):
                note = {
                    "jsonrpc": "2.0",
                    "method": "notifications/cancelled",
                    "params": {"requestId": f"s{n}"},
                }
                await alice.post(note)
        assert not hub.hub.plane.in_flight.get(alice_id)


async def test_streams_of_one_user_are_bounded_and_anothers_are_free(hub):
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params = {"notifications": {"toolsListChanged": True}, "_meta": meta}
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
    statuses: dict[str, list[str]] = {"alice": [], "bob": []}

    async def listen(client, name):
        body = request("subscriptions/listen", params, id="sub")
        async with client.http.stream("POST", client.url, json=body, headers=headers) as stream:
            async for line in stream.aiter_lines():
                if "acknowledged" in line or "limit_exceeded" in line:
                    statuses[name].append("open" if "acknowledged" in line else "refused")

    async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(listen, alice, "alice")
            await until(lambda: len(statuses["alice"]) == 6)
            group.start_soon(listen, bob, "bob")
            await until(lambda: statuses["bob"])
            group.cancel_scope.cancel()
    assert statuses["alice"].count("open") == 4 and statuses["bob"] == ["open"]


UNREADABLE = {
    "nothing": b"", "no json": b"{", "a number": b"1", "text": b'"x"', "null": b"null", "two": b"{}{}",
    "deep array": b"[" * 20_000, "deep object": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 10_000,
    "bad utf-8 method": b'{"jsonrpc":"2.0","id":1,"method":"\xff"}',
    "bad utf-8 id": b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}',
    "bad utf-8 params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"\xff":1}}',
    "bad utf-8 name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\xff"}}',
    "bad utf-8 argument": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"\xff"}}}',
    "utf-16": '{"jsonrpc":"2.0","id":1,"method":"ping"}'.encode("utf-16"), "nul": b"\x00" * 100,
    "surrogate method": b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}', "id object": b'{"jsonrpc":"2.0","id":{},"method":"ping"}',
    "id float": b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', "id bool": b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    "wrong version": b'{"jsonrpc":"1.0","id":1,"method":"ping"}', "method number": b'{"jsonrpc":"2.0","id":1,"method":1}',
    "line break in text": b'{"jsonrpc":"2.0","id":"a\nb","method":"ping"}', "empty batch": b"[]",
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
@pytest.mark.parametrize("server", ["plain", ""])
async def test_what_is_no_message_is_a_400_and_the_session_lives_on(hub, name, server):
    async with raw_client(hub, "alice", server) as alice:
        await alice.open()
        headers = alice.headers | {"Content-Type": "application/json"}
        answer = await alice.http.post(alice.url, content=UNREADABLE[name], headers=headers)
        assert answer.status_code == 400, answer.text
        json.loads(answer.content)
        assert (await alice.post(request("ping"))).status_code == 200


@pytest.mark.parametrize("given", ["1" * 5000, '"' + "x" * 40_000 + '"', "-0", "9" * 400, '""'])
async def test_an_id_of_any_size_comes_back_as_it_was(hub, given):
    body = f'{{"jsonrpc":"2.0","id":{given},"method":"tools/call","params":{{"name":"echo"}}}}'
    async with raw_client(hub, "alice") as alice:
        await alice.open()
        headers = alice.headers | {"Content-Type": "application/json"}
        answer = await alice.http.post(alice.url, content=body.encode(), headers=headers)
        told = answer.content.replace(b'"id": ', b'"id":')
        assert answer.status_code == 200 and f'"id":{given}'.encode() in told


async def test_of_a_repeated_member_hub_and_server_read_the_same_one(hub):
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call",'
        b'"params":{"name":"who","name":"params","n\\u0061me":"params","_meta":{"a":1},"_meta":{"b":2}}}'
    )
    async with raw_client(hub, "alice") as alice:
        await alice.open()
        headers = alice.headers | {"Content-Type": "application/json"}
        answer = await alice.http.post(alice.url, content=body, headers=headers)
        assert json.loads(text_in(answer)) == {"name": "params", "_meta": {"b": 2}}


@pytest.mark.parametrize("version", ["2025-11-25", "2025-03-26"])
async def test_a_batch_is_for_one_old_version_and_has_rules(hub, version):
    old = version == "2025-03-26"
    batches = {
        "two": ([request("ping", id=1), request("ping", id=2)], 200),
        "too many": ([request("ping", id=n) for n in range(65)], 400),
        "with initialize": ([request("initialize")], 400),
        "no messages": ([1, "x", None], 400),
        "modern inside": ([request("server/discover", id=1), request("ping", id=2)], 400),
        "one broken": ([request("ping", id=1), {"jsonrpc": "2.0"}], 400),
        "nested": ([[request("ping")]], 400),
        "notifications": ([{"jsonrpc": "2.0", "method": "notifications/initialized"}], 202),
    }
    async with raw_client(hub, "alice") as alice:
        await alice.open(version)
        for name, (batch, status) in batches.items():
            answer = await alice.post(batch)
            assert answer.status_code == (status if old else 400), (name, answer.text)
        assert (await alice.post(request("ping"))).status_code == 200


async def test_a_cancelled_call_of_a_batch_leaves_the_others_their_answers(hub):
    async with raw_client(hub, "alice") as alice:
        await alice.open("2025-03-26")
        got = {}

        async def both():
            slow = {"name": "slow", "arguments": {"seconds": 15}}
            batch = [request("tools/call", slow, id="s"), request("ping", id="p")]
            got["answer"] = await alice.post(batch)

        async with anyio.create_task_group() as group:
            group.start_soon(both)
            await until(lambda: any(found["in_flight"] for found in hub.hub.instances()))
            note = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": "s"},
            }
            await alice.post(note)
        assert got["answer"].status_code == 200
        answers = {answer["id"]: answer for answer in got["answer"].json()}
        assert answers["p"]["result"] == {} and "cancelled" in answers["s"]["error"]["data"]["code"]


async def test_verbs_and_paths_that_mean_nothing_are_refused(hub):
    async with raw_client(hub, "alice") as alice, httpx2.AsyncClient(timeout=30) as nobody:
        await alice.open()
        for verb in ("PUT", "PATCH", "OPTIONS", "HEAD", "TRACE"):
            assert (await alice.http.request(verb, alice.url)).status_code == 405
            assert (await nobody.request(verb, alice.url)).status_code == 401
        without = {**alice.headers, "Accept": "application/json"}
        assert (await alice.http.get(alice.url, headers=without)).status_code == 405
        assert (await alice.http.delete(alice.url)).status_code == 400
        for path in ("/", "/mcp/a/b", "/mcpx", "/mcp//plain", "/api/", "/api/admin", "/metrics", "/docs",
                     "/.env", "/static/../hub.db", "/..%2f..%2fhub.db", "/mcp/" + "x" * 65):  # fmt: skip
            assert (await alice.http.post(hub.url + path, json={})).status_code in {404, 405}, path
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = await alice.http.post(
                alice.url, content=b"{}", headers=alice.headers | {"Content-Type": kind}
            )
            assert answer.status_code == 415  # what a page may send without asking first


async def test_nobody_is_sent_elsewhere_by_a_path(hub):
    """Behind a proxy with https the hub would send keys on to plain http."""
    paths = (
        "/api/me",
        "/api",
        "/metrics",
        "/healthz",
        "/oauth/connect/plain",
        "/oauth/callback",
        "/mcp",
        "/mcp/plain",
    )
    async with raw_client(hub, "alice") as alice:
        for path in paths:
            for other in (f"{path}/", f"/{path}/", f"{path}//", f"//evil.example{path}/"):
                for verb in ("GET", "POST", "PUT"):
                    answer = await alice.http.request(verb, hub.url + other)
                    assert answer.status_code >= 400, (verb, other)
                    assert "location" not in answer.headers


async def test_http_1_0_is_answered_and_garbage_is_not(hub):
    head_of = head(hub, "GET /api/me HTTP/1.0", "Host: localhost")
    assert status_of(await exchange(hub.url, head_of)) == 200
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\r\n\r\n"):
        assert status_of(await exchange(hub.url, garbage, end=True)) in {0, 400}
    smuggled = head(
        hub, "POST /mcp/plain HTTP/1.1", "Host: localhost", "Content-Length: 4", "Transfer-Encoding: chunked",
    )  # fmt: skip
    answer = await exchange(hub.url, smuggled, b"0\r\n\r\nGET /api/me HTTP/1.1\r\n\r\n", end=True)
    assert b'"name":"alice"' not in answer
