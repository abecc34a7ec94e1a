"""Messages of megabytes, in both eras, through both doors, with servers of every transport: whole, and each user's own."""

import json

import anyio
import pytest
from mcp_types import ElicitResult

from tests.doors import BOTH_DOORS
from tests.interaction.clients import (
    MODERN,
    connected,
    plain,
    raw_client,
    request,
    scripted,
    text_of,
    tools,
)
from tests.interaction.clients import SERVERS as FILES
from tests.interaction.test_http_upstream import remote, tokens
from tests.servers.modern_http import modern_server
from tests.servers.recording_http import recording_server
from tests.servers.sse_http import sse_server

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

TEXTS = {
    "letters": "QUJD" * 600_000,
    "escaped": '{"a": "b\\n"}\n\t' * 60_000 + "😀 żółć\u2028" * 20_000,
    "brackets": '},{"],[",,' * 90_000,
}
MODERN_STDIO = {"args": [str(FILES / "modern.py")]}
MODES = pytest.mark.parametrize("mode", ["legacy", MODERN])
_BOTH = {"one": plain(), "two": plain(**MODERN_STDIO)}


async def post(client, mode, method, params, **more):
    """Make a raw request in an era; returns the whole answer."""
    if mode != "legacy":
        return await client.modern(method, params, **more)
    if not client.headers:
        await client.open()
    return await client.post(request(method, params))


@MODES
@pytest.mark.parametrize("kind", TEXTS)
async def test_large_texts_come_back_as_they_went(hub_of, mode, kind):
    given = TEXTS[kind]
    async with hub_of(_BOTH) as hub:
        for server in _BOTH:
            async with connected(hub, "alice", server, mode) as client:
                for size in (len(given) // 3, len(given)):
                    assert await text_of(client, "echo", {"text": given[:size]}) == given[:size]
                assert await text_of(client, "echo", {"text": "small"}) == "small"


@MODES
async def test_a_message_of_nearly_the_largest_size_goes_through(hub_of, mode):
    given = "QUJD" * (4 * 1024 * 1024 - 4096)
    async with hub_of(_BOTH) as hub:
        for server in _BOTH:
            async with raw_client(hub, "alice", server) as client:
                params = {"name": "echo", "arguments": {"text": given}}
                answer = await post(client, mode, "tools/call", params)
                assert answer.json()["result"]["content"][0]["text"] == given
                params["arguments"]["text"] += given
                assert (await post(client, mode, "tools/call", params)).status_code == 413


@MODES
async def test_large_values_of_two_users_stay_apart(hub_of, mode):
    async with hub_of(_BOTH) as hub:
        for server in _BOTH:
            async with (
                connected(hub, "alice", server, mode) as alice,
                connected(hub, "bob", server, mode) as bob,
            ):
                values = [(alice, "a" * 1_500_000), (bob, "b" * 1_400_000)]
                async with anyio.create_task_group() as group:
                    for client, value in values:
                        group.start_soon(text_of, client, "remember", {"value": value})
                for client, value in values:
                    assert await text_of(client, "recall") == value


@MODES
@pytest.mark.parametrize(
    ("serve", "keep", "give"),
    [
        (recording_server, "remember", "recall"),
        (sse_server, "set", "get"),
        (modern_server, "echo", ""),
    ],
    ids=["http", "sse", "modern"],
)
async def test_servers_behind_a_url_get_and_give_large_values(hub_of, mode, serve, keep, give):
    async with serve() as server, hub_of({"remote": remote(server.url)}) as hub:
        await tokens(hub, "alice", "bob")
        async with (
            connected(hub, "alice", "remote", mode) as alice,
            connected(hub, "bob", "remote", mode) as bob,
        ):
            values = [(alice, TEXTS["escaped"]), (bob, TEXTS["letters"])]
            for client, value in values:
                said = await text_of(client, keep, {"value": value, "text": value})
                assert give or said == value
            for client, value in values:
                assert not give or await text_of(client, give) == value


@MODES
@pytest.mark.parametrize("server", _BOTH)
async def test_large_questions_and_answers_go_through_and_stay_with_their_users(
    hub_of, mode, server
):
    async def ask(hub, user):
        question = user * 150_000
        given = question[::-1]

        async def accept(_context, params):
            assert params.message == question
            return ElicitResult(action="accept", content={"colour": given})

        async with connected(hub, user, server, mode, elicitation_callback=accept) as client:
            assert given in await text_of(client, "ask", {"text": question})

    async with hub_of(_BOTH) as hub, anyio.create_task_group() as group:
        for user in ("alice", "bob"):
            group.start_soon(ask, hub, user)


_RESULT = {
    "_meta": {"own": [1, {"x": None}]},
    "content": [{"type": "text", "text": "é" * 10}],
    "structuredContent": {"rows": [{"id": n, "tags": ["a", "}"]} for n in range(20_000)]},
    "more": 12345678901234567890,
}


@MODES
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("is_modern", [False, True])
async def test_results_of_many_values_keep_all_of_them(hub_of, mode, indent, is_modern):
    text = json.dumps(_RESULT, indent=indent).replace("\n", " ")
    script = {"tools": tools("verbatim"), "modern": is_modern}
    params = {"name": "verbatim", "arguments": {"result": text}}
    async with hub_of({"one": scripted(script)}) as hub, raw_client(hub, "alice", "one") as client:
        for _ in range(3):
            found = (await post(client, mode, "tools/call", params)).json()["result"]
            assert {name: found[name] for name in _RESULT if name != "_meta"} == {
                name: value for name, value in _RESULT.items() if name != "_meta"
            }
            assert found["_meta"]["own"] == _RESULT["_meta"]["own"]
            completed = mode != "legacy" and not is_modern
            assert found.get("resultType") == ("complete" if completed else None)


@MODES
async def test_half_a_character_from_a_server_is_replaced_and_from_a_client_refused(hub_of, mode):
    half = '{"content":[{"type":"text","text":"' + "x" * 400_000 + '\\\\ud83d"}]}'
    async with (
        hub_of({"one": scripted({"tools": tools("verbatim")})}) as hub,
        raw_client(hub, "alice", "one") as client,
    ):
        given = {"name": "verbatim", "arguments": {"result": half.replace("\\\\", "\\")}}
        found = (await post(client, mode, "tools/call", given)).json()["result"]
        assert found["content"][0]["text"] == "x" * 400_000 + "\ufffd"
        message = json.dumps(request("ping", {"text": "x" * 400_000 + "HALF"}))
        headers = client.headers | {"Content-Type": "application/json"}
        for bad in (b"\\ud83d", b"\xff", b"\x01", b'"', b"\\x"):
            body = message.encode().replace(b"HALF", bad)
            answer = await client.http.post(client.url, content=body, headers=headers)
            assert answer.status_code == 400 and answer.json()["error"]["code"] == -32700
        batch = b"[" + message.encode() + b"]"
        answer = await client.http.post(client.url, content=batch, headers=headers)
        assert answer.status_code == 413 and "one by one" in answer.json()["error"]["message"]


@MODES
async def test_a_large_answer_that_is_no_json_fails_its_call_only(hub_of, mode):
    bad = '{"content":[' + '{"type":"text","text":"x"},' * 20_000 + "]}"
    async with (
        hub_of({"one": scripted({"tools": tools("verbatim")})}) as hub,
        raw_client(hub, "alice", "one") as client,
    ):
        for result, is_error in ((bad, True), ('{"content":[]}', False)):
            params = {"name": "verbatim", "arguments": {"result": result}}
            with anyio.fail_after(20):
                found = (await post(client, mode, "tools/call", params)).json()["result"]
            assert found.get("isError", False) is is_error
            assert not is_error or "cannot be read" in found["content"][0]["text"]


@MODES
async def test_large_messages_ahead_of_an_answer_arrive_before_it(hub_of, mode):
    async with hub_of(_BOTH) as hub:
        for server in _BOTH:
            seen = []

            async def progress(_done, _total, message, seen=seen):
                seen.append(message)

            async with connected(hub, "alice", server, mode) as client:
                arguments = {"steps": 2, "text": TEXTS["brackets"][:450_000]}
                await text_of(client, "progress", arguments, progress_callback=progress)
            assert seen == [TEXTS["brackets"][:450_000]] * 2


async def test_a_large_error_has_the_status_of_its_code(hub_of):
    async with (
        hub_of({"two": plain(**MODERN_STDIO)}) as hub,
        raw_client(hub, "alice", "two") as client,
    ):
        for size in (10, 500_000):
            arguments = {"code": -32021, "data": "x" * size}
            answer = await client.modern("tools/call", {"name": "error", "arguments": arguments})
            assert answer.status_code == 400, size
            assert answer.json()["error"]["data"] == "x" * size
