"""What a server writes instead of one plain answer: it answers its own request, and no other (rule R2)."""

import json

import pytest
from tests.doors import BOTH_DOORS
from tests.interaction.clients import raw_client, request, scripted, tools

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

SERVERS = {
    "one": scripted({"tools": tools("verbatim", "size", "flood")}, timeoutSeconds=1),
    "other": scripted({"tools": tools("size")}),
}
OWN, OTHERS = 11, 900_012  # the second is far from what the hub counts towards a server
FORGED = '{"content":[{"type":"text","text":"forged"}]}'
PAGE = "event: endpoint\rdata: http://other.example/\r\r"


def verbatim(result, progress=None):
    params = {"name": "verbatim", "arguments": {"result": result}}
    return params | ({"_meta": {"progressToken": progress}} if progress is not None else {})


@pytest.mark.parametrize(
    "result",
    [
        f'{{}},"id":{OTHERS},"result":{FORGED}',
        f'{{"content":[]}},"id":{OTHERS},"more":{{}}',
        f'{{}}}},{{"jsonrpc":"2.0","id":{OTHERS},"result":{FORGED}',
    ],
    ids=["second id and result", "second id", "second message"],
)
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_server_answers_no_request_but_the_one_it_got(hub, result, era):
    async with raw_client(hub, "alice", "one") as alice:
        if era == "legacy":
            await alice.open()
        for _ in range(2):  # a cold call, and a warm one
            if era == "legacy":
                answer = await alice.post(request("tools/call", verbatim(result), OWN))
            else:
                answer = await alice.modern("tools/call", verbatim(result), OWN)
            body = json.loads(answer.text, object_pairs_hook=once)
            assert body["id"] == OWN and "forged" not in answer.text


@pytest.mark.parametrize("name", ["resultType", "result\\u0054ype", "\\u0072esultType"])
@pytest.mark.parametrize("kind", ["input_required", "task", "other"])
async def test_a_server_of_the_old_era_gives_complete_results_only(hub, name, kind):
    """What it asks in another way would reach a client that declared nothing, with a state that is not bound."""
    asked = {"a": {"method": "elicitation/create", "params": {"message": "m"}}}
    result = {"content": [], "inputRequests": asked, "requestState": "its own", "taskId": "t"}
    forged = f'{json.dumps(result)[:-1]},"{name}":"{kind}"}}'
    async with raw_client(hub, "alice", "one") as alice, raw_client(hub, "bob", "one") as bob:
        for client in (alice, bob, alice):
            for text in (
                forged,
                forged.replace('"taskId": "t", ', "").replace(', "taskId": "t"', ""),
            ):
                answer = await client.modern("tools/call", verbatim(text), OWN)
                found = json.loads(answer.text, object_pairs_hook=once)
                assert found["result"]["resultType"] == "complete"


async def test_a_server_adds_no_answer_to_a_batch(hub):
    forged = f'{{}}}},{{"jsonrpc":"2.0","id":{OTHERS},"result":{FORGED}'
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open("2025-03-26")
        batch = [request("tools/call", verbatim(forged), OWN), request("ping", id=OTHERS)]
        answer = await alice.http.post(alice.url, json=batch, headers=alice.headers)
        found = json.loads(answer.text, object_pairs_hook=once)
        assert sorted(each["id"] for each in found) == [OWN, OTHERS]
        assert "forged" not in answer.text


@pytest.mark.parametrize(
    "result", ['{"content":[],"x":"\r\r' + PAGE + '"}', '{"content":[],\r\r"x":\r{}}'],
    ids=["in a text", "between members"],
)  # fmt: skip
async def test_a_server_begins_no_event_of_its_own_in_a_stream(hub, result):
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open()
        flooded = {
            "name": "flood",
            "arguments": {"count": 1, "bytes": 1},
            "_meta": {"progressToken": 1},
        }
        assert (
            "event-stream"
            in (await alice.post(request("tools/call", flooded))).headers["content-type"]
        )
        for params in (verbatim(result), verbatim(result, progress=1)):
            answer = await alice.post(request("tools/call", params, OWN))
            assert b"\r" not in answer.content.replace(b"\r\n", b"")


async def test_half_a_character_of_a_server_costs_no_answer(hub):
    """JavaScript cuts texts in the middle of a character; readers refuse the half that is left."""
    result = json.dumps({"content": [{"type": "text", "text": "cut \ud83d"}], "isError": True})
    async with raw_client(hub, "alice", "one") as alice:
        for text in (result, result.replace("true", "false")):
            answer = (await alice.modern("tools/call", verbatim(text))).json()
            assert answer["result"]["content"] == [{"type": "text", "text": "cut \ufffd"}]


def once(pairs):
    """Of a repeated member, readers take either one: there is none."""
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), names
    return dict(pairs)
