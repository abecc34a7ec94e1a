"""What a modern client may rely on, whatever the era of the server behind the hub."""

import json

import anyio
import pytest

from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, plain, raw_client, request

pytestmark = [pytest.mark.anyio, BOTH_DOORS]
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
ELICITS = {CAPABILITIES: {"elicitation": {}}}
REMOVED = ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"]


def ask(**arguments):
    return {"name": "ask", "arguments": {"text": "?", **arguments}}


@pytest.mark.parametrize("method", REMOVED)
async def test_methods_of_the_legacy_era_are_not_found_in_the_modern_one(hub_of, method):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        answer = await alice.modern(method, id="own")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == -32601 and answer.json()["id"] == "own"


async def test_an_unknown_method_is_not_found_where_many_servers_are(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice", server="") as alice:
        answer = await alice.modern("unknown/method")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, -32601)


async def test_an_initialize_with_modern_headers_still_opens_a_session(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        info = {"name": "sloppy", "version": "1"}
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, CAPABILITIES: {}}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        message = request("initialize", {**params, "_meta": meta})
        answer = await alice.post(message, MCP_Protocol_Version=MODERN, Mcp_Method="initialize")
        assert answer.status_code == 200 and answer.headers["mcp-session-id"]


async def test_a_call_that_fails_for_want_of_a_capability_names_it(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        call = ask(method="sampling/createMessage", insists=True)
        answer = await alice.modern("tools/call", call, meta=ELICITS)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, -32021)
        assert error["data"] == {"requiredCapabilities": {"sampling": {}}}


async def test_a_question_does_not_go_to_another_sessions_call_that_waits_for_its_client(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as able, raw_client(hub, "alice") as unable:
            able.capabilities = {"elicitation": {}}
            await able.open()
            await unable.open()
            call = request("tools/call", ask())
            async with able.http.stream(
                "POST", able.url, json=call, headers=able.headers
            ) as stream:
                with anyio.fail_after(10):
                    async for line in stream.aiter_lines():
                        if "elicitation/create" in line:
                            break
                    answer = (await unable.post(call)).json()["result"]
            assert json.loads(answer["content"][0]["text"])["code"] == -32601


async def test_a_question_does_not_go_to_a_parked_call(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        first = (await alice.modern("tools/call", ask(), meta=ELICITS)).json()["result"]
        with anyio.fail_after(10):
            second = (await alice.modern("tools/call", ask())).json()["result"]
        assert json.loads(second["content"][0]["text"])["code"] == -32601
        retry = ask() | {
            "requestState": first["requestState"],
            "inputResponses": {"q1": {"action": "accept", "content": {}}},
        }
        done = (await alice.modern("tools/call", retry, meta=ELICITS)).json()["result"]
        assert json.loads(done["content"][0]["text"])["action"] == "accept"
