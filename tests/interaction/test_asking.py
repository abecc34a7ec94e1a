"""What a server asks in the middle of a call reaches the client that called, in both eras, and no other."""

import json

import anyio
import pytest
from mcp.types import ElicitResult

from mcphub.catalog.versions import exact_version
from mcphub.spawn.launching import NEUTRAL
from mcphub.testing.hub import write_servers
from tests.doors import BOTH_DOORS
from tests.interaction.clients import MODERN, connected, plain, raw_client, request, text_of
from tests.polling import until

pytestmark = [pytest.mark.anyio, BOTH_DOORS]
ASK = {"name": "ask", "arguments": {"text": "colour?"}}
ELICITS = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}}}


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_an_elicitation_is_answered_by_the_user_who_called(hub_of, mode):
    async def work(hub, user):
        async def elicit(context, params):
            assert params.message == user
            return ElicitResult(action="accept", content={"colour": user})

        async with connected(hub, user, mode=mode, elicitation_callback=elicit) as client:
            for _ in range(3):
                answer = json.loads(await text_of(client, "ask", {"text": user}))
                assert answer["content"] == {"colour": user}

    async with hub_of({"plain": plain()}) as hub:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for user in ("alice", "bob"):
                    group.start_soon(work, hub, user)
        assert len(hub.hub.plane.parked) == 0


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_client_that_cannot_be_asked_is_not_waited_for(hub_of, mode):
    async with hub_of({"plain": plain()}) as hub, connected(hub, "alice", mode=mode) as client:
        answer = json.loads(await text_of(client, "ask", {"text": "anyone?"}))
        assert answer["code"] == -32601


async def test_only_the_owner_can_continue_a_parked_call_and_only_as_it_was(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            first = (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["result"]
            assert first["resultType"] == "input_required"
            assert first["inputRequests"]["q1"]["params"]["message"] == "colour?"
            retry = ASK | {
                "requestState": first["requestState"],
                "inputResponses": {"q1": {"action": "accept", "content": {"colour": "red"}}},
            }
            stolen = (await bob.modern("tools/call", retry, meta=ELICITS)).json()
            assert stolen["error"]["code"] == -32602
            altered = retry | {"arguments": {"text": "other"}}
            assert (await alice.modern("tools/call", altered, meta=ELICITS)).json()["error"][
                "code"
            ] == -32602
            done = (await alice.modern("tools/call", retry, meta=ELICITS)).json()["result"]
            assert json.loads(done["content"][0]["text"])["content"] == {"colour": "red"}
            again = (await alice.modern("tools/call", retry, meta=ELICITS)).json()
            assert again["error"]["code"] == -32602


async def test_a_bare_name_that_means_another_server_by_now_continues_nothing(hub_of):
    async with hub_of({"first": plain()}) as hub:
        async with raw_client(hub, "alice", "") as alice, raw_client(hub, "bob", "first") as bob:
            await alice.modern("tools/list")
            asked = (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["result"]
            servers = {"first": plain(tools={"deny": ["ask"]}), "second": plain()}
            write_servers(hub.hub.ground.settings.dir, servers)
            await hub.hub.reload()
            await alice.modern("tools/list")
            retry = ASK | {
                "requestState": asked["requestState"],
                "inputResponses": {"q1": {"action": "accept", "content": {}}},
            }
            told = (await alice.modern("tools/call", retry, meta=ELICITS)).json()
            assert told["error"]["code"] == -32602, told
            denied = (await bob.modern("tools/call", ASK, meta=ELICITS)).json()
            assert "not allowed" in denied["error"]["message"]


async def test_a_retry_without_the_answer_is_asked_again(hub_of):
    async with hub_of({"plain": plain()}) as hub, raw_client(hub, "alice") as alice:
        first = (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["result"]
        retry = ASK | {"requestState": first["requestState"], "inputResponses": {}}
        second = (await alice.modern("tools/call", retry, meta=ELICITS)).json()["result"]
        assert (
            second["resultType"] == "input_required"
            and second["requestState"] != first["requestState"]
        )
        retry = ASK | {
            "requestState": second["requestState"],
            "inputResponses": {"q1": {"action": "decline"}},
        }
        done = (await alice.modern("tools/call", retry, meta=ELICITS)).json()["result"]
        assert json.loads(done["content"][0]["text"]) == {"action": "decline"}


async def test_parked_calls_of_a_user_are_bounded(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            for _ in range(16):
                assert (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["result"][
                    "requestState"
                ]
            assert (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["error"][
                "code"
            ] == 4290
            assert (await bob.modern("tools/call", ASK, meta=ELICITS)).json()["result"][
                "requestState"
            ]


async def test_another_users_session_cannot_answer_a_question(hub_of):
    async with hub_of({"plain": plain()}) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            for client in (alice, bob):
                client.capabilities = {"elicitation": {}}
                await client.open()
            async with alice.http.stream(
                "POST", alice.url, json=request("tools/call", ASK), headers=alice.headers
            ) as stream:
                lines = stream.aiter_lines()
                with anyio.fail_after(10):
                    async for line in lines:
                        if line.startswith("data: "):
                            question = json.loads(line[6:])
                            break
                assert question["method"] == "elicitation/create"
                forged = {
                    "jsonrpc": "2.0",
                    "id": question["id"],
                    "result": {"action": "accept", "content": {"by": "bob"}},
                }
                assert (await bob.post(forged)).status_code == 202
                honest = forged | {"result": {"action": "accept", "content": {"by": "alice"}}}
                assert (await alice.post(honest)).status_code == 202
                with anyio.fail_after(10):
                    async for line in lines:
                        if line.startswith("data: "):
                            answer = json.loads(line[6:])
                            break
        assert json.loads(answer["result"]["content"][0]["text"])["content"] == {"by": "alice"}


async def test_a_shared_servers_words_and_questions_reach_no_call(hub_of):
    shared = plain(riskLevel="low", isolation="shared")
    async with hub_of({"plain": shared}) as hub:
        version = exact_version(hub.hub.access.specs["plain"], None)
        await hub.hub.ground.states.acknowledge("plain", version, "root", "for the test")
        await hub.hub.refresh()
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            asked = (await alice.modern("tools/call", ASK, meta=ELICITS)).json()["result"]
            assert json.loads(asked["content"][0]["text"])["code"] == -32601
            log = {"io.modelcontextprotocol/logLevel": "debug"}
            said = await bob.modern(
                "tools/call", {"name": "log", "arguments": {"text": "whose?"}}, meta=log
            )
            assert "whose?" not in said.text
        # what reads the lists for the catalog may not have ended yet
        users = [instance["user"] for instance in hub.hub.instances()]
        assert [user for user in users if user != NEUTRAL] == ["shared"]


async def test_a_notification_that_is_sent_as_a_request_reaches_no_server(hub_of):
    """On a shared server it would cancel another user's call: its ids are the hub's there (rule R2)."""
    async with hub_of({"plain": plain(riskLevel="low", isolation="shared")}) as hub:
        version = exact_version(hub.hub.access.specs["plain"], None)
        await hub.hub.ground.states.acknowledge("plain", version, "root", "for the test")
        await hub.hub.refresh()
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            await bob.open()
            slow = {"name": "slow", "arguments": {"seconds": 1}}
            answers = []

            async def called():
                answers.append(await alice.modern("tools/call", slow))

            async with anyio.create_task_group() as group:
                group.start_soon(called)
                await until(lambda: any(one["in_flight"] for one in hub.hub.instances()))
                for number in range(30):
                    forged = request("notifications/cancelled", {"requestId": number})
                    assert (await bob.post(forged)).json()["error"]["code"] == -32601
            assert answers[0].json()["result"]["content"][0]["text"] == "slept"
