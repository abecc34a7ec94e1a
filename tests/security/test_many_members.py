"""Messages of a million members: reading them must not keep everybody else waiting."""

import pytest
from tests.doors import BOTH_DOORS
from tests.interaction.clients import raw_client, request, scripted, tools

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

MANY = 400_000
MEMBERS = b"{" + b",".join(b'"%d":1' % number for number in range(MANY)) + b"}"
ITEMS = b"[" + b",".join([b"{}"] * MANY) + b"]"
SERVERS = {
    "one": scripted({"tools": tools("verbatim", "many")}),
    "lists": scripted({"tools": tools("a"), "repeat": 10_001}),
}


async def test_a_message_or_a_batch_of_too_many_is_refused_and_others_are_served(hub):
    async with raw_client(hub, "alice", "one") as alice, raw_client(hub, "bob", "one") as bob:
        await alice.open()
        await bob.open()
        message = b'{"jsonrpc":"2.0","id":1,"method":"ping",' + MEMBERS[1:]
        for body, status, text in ((message, 400, "10000 members"), (ITEMS, 413, "one by one")):
            headers = alice.headers | {"Content-Type": "application/json"}
            answer = await alice.http.post(alice.url, content=body, headers=headers)
            assert answer.status_code == status and text in answer.json()["error"]["message"]
            assert (await bob.post(request("ping"))).json()["result"] == {}


async def test_arguments_of_as_many_members_as_one_likes_are_passed_on(hub):
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open()
        given = {str(number): number for number in range(20_000)}
        params = {"name": "verbatim", "arguments": {"result": "{}", **given}}
        assert (await alice.post(request("tools/call", params))).json()["result"] == {}


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_result_of_too_many_members_is_passed_on_unread(hub, era):
    result = '{"content":[],' + ",".join(f'"x{number}":1' for number in range(20_000)) + "}"
    params = {"name": "verbatim", "arguments": {"result": result}}
    async with raw_client(hub, "alice", "one") as alice:
        if era == "legacy":
            await alice.open()
            answer = await alice.post(request("tools/call", params))
        else:
            answer = await alice.modern("tools/call", params)
        assert answer.json()["result"]["x19999"] == 1


async def test_a_server_that_lists_too_much_is_named_and_the_others_are_listed(hub):
    async with raw_client(hub, "alice", "") as alice:
        listed = (await alice.modern("tools/list")).json()["result"]
        assert [tool["name"] for tool in listed["tools"]] == ["one__verbatim", "one__many"]
        assert "10000 items" in listed["_meta"]["dev.mcphub/unavailable"]["lists"]
