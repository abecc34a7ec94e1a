"""Servers that ask as authors wrote them: early, late, in vain, for another call, and taking it back."""

import json
import re

import anyio
import mcp.types as types
import pytest

from mcphub.spawn.instance import State
from tests.interaction.clients import (
    MODERN,
    SERVERS,
    connected,
    plain,
    raw_client,
    request,
    text_of,
)
from tests.polling import until

pytestmark = pytest.mark.anyio
BOTH_ERAS = pytest.mark.parametrize("mode", ["legacy", MODERN])


def asker(*arguments, **fields):
    return plain(args=[str(SERVERS / "asker.py"), *arguments], **fields)


def answering(name):
    async def elicit(context, params):
        return types.ElicitResult(action="accept", content={"name": name})

    return {"elicitation_callback": elicit}


async def said(client, tool, arguments=None, **options):
    return json.loads(await text_of(client, tool, arguments, **options))


@BOTH_ERAS
async def test_a_server_that_asks_in_the_legacy_era_only_is_spoken_to_in_that_after_the_first_time(
    hub_of, mode
):
    servers = {"asker": asker("both")}
    async with (
        hub_of(servers) as hub,
        connected(hub, "alice", "asker", mode=mode, **answering("alice")) as alice,
        connected(hub, "bob", "asker", mode=mode, **answering("bob")) as bob,
    ):
        for client in (alice, bob):
            assert await said(client, "release") == "released"
        of_alice, of_bob = ready(hub)
        for client, name, left in ((alice, "alice", {of_bob}), (bob, "bob", set())):
            failed = await client.call_tool("ask")
            assert failed.is_error and "Make the call again" in failed.content[0].text
            # what one user's call showed stops nobody else's instance: theirs goes when it fails itself
            await until(lambda left=left: {of_alice, of_bob} & set(ready(hub)) == left)
            assert (await said(client, "ask"))["content"] == {"name": name}


def ready(hub):
    """The ids of users' instances that take calls, oldest first."""
    found = hub.hub.pool.instances()
    return [one.id for one in found if one.state is State.READY and one.owner.startswith("u_")]


async def test_a_server_that_the_settings_call_modern_stays_so_and_its_own_words_are_told(hub_of):
    servers = {"asker": asker("both", era="modern")}
    async with hub_of(servers) as hub, raw_client(hub, "alice", "asker") as alice:
        await alice.open()
        for _ in range(2):
            answer = (await alice.post(request("tools/call", {"name": "ask"}))).json()
            assert "no back-channel" in answer["error"]["message"]


async def test_a_question_is_answered_although_another_call_was_asked_it_and_has_ended(hub_of):
    async with hub_of({"asker": asker()}) as hub:
        ended = anyio.Event()

        async def elicit(context, params):
            await ended.wait()
            return types.ElicitResult(action="accept", content={"name": "late"})

        found = {}
        async with (
            connected(hub, "alice", "asker", **answering("first")) as first,
            connected(hub, "alice", "asker", elicitation_callback=elicit) as second,
        ):

            async def hold():
                found["hold"] = await said(first, "hold")

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(hold)
                    await until(lambda: pending(hub) == 1)
                    assert await said(second, "release") == "released"
                    ended.set()
        assert found["hold"]["content"] == {"name": "late"}


async def test_a_question_that_went_to_a_call_which_its_client_gave_up_is_refused(hub_of):
    async with hub_of({"asker": asker()}) as hub:
        found = {}
        async with (
            connected(hub, "alice", "asker", **answering("first")) as first,
            connected(hub, "alice", "asker", elicitation_callback=never) as second,
        ):

            async def hold():
                found["hold"] = await said(first, "hold")

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(hold)
                    await until(lambda: pending(hub) == 1)
                    with anyio.move_on_after(0.5):
                        await second.call_tool("stuck")
        assert found["hold"]["code"] == -32603


async def never(context, params):
    await anyio.sleep_forever()


def pending(hub):
    return sum(one.upstream.pending for one in hub.hub.pool.instances() if one.state is State.READY)


async def test_a_question_that_its_server_takes_back_ends_at_the_client_that_was_asked(hub_of):
    async with hub_of({"asker": asker()}) as hub:
        ends = []

        async def elicit(context, params):
            try:
                await anyio.sleep_forever()
            finally:
                ends.append("taken back")

        async with (
            connected(hub, "alice", "asker", elicitation_callback=elicit) as asked,
            connected(hub, "alice", "asker") as other,
        ):
            found = {}

            async def work():
                found["impatient"] = await said(asked, "impatient")

            with anyio.fail_after(20):
                async with anyio.create_task_group() as group:
                    group.start_soon(work)
                    await until(lambda: ends == ["taken back"])
                    await said(other, "release")
        assert found["impatient"] == "gave up"


@BOTH_ERAS
async def test_a_model_is_asked_with_tools_where_the_client_declared_that(hub_of, mode):
    async def sample(context, params):
        assert params.tools[0].name == "weather"
        text = types.TextContent(type="text", text="sunny")
        return types.CreateMessageResult(role="assistant", model="m", content=text)

    tools = types.SamplingCapability(tools=types.SamplingToolsCapability())
    can = {"sampling_callback": sample, "sampling_capabilities": tools}
    cannot = {"sampling_callback": sample}
    async with hub_of({"asker": asker()}) as hub:
        async with connected(hub, "alice", "asker", mode=mode, **can) as client:
            assert (await said(client, "sample"))["content"]["text"] == "sunny"
        async with connected(hub, "bob", "asker", mode=mode, **cannot) as client:
            assert (await said(client, "sample"))["code"] == -32601


@BOTH_ERAS
async def test_directories_that_a_server_asks_for_at_its_start_are_asked_of_the_first_who_calls(
    hub_of, mode
):
    async def roots_of(hub, user):
        async def list_roots(context):
            return types.ListRootsResult(roots=[types.Root(uri=f"file:///{user}")])

        options = {"list_roots_callback": list_roots}
        async with connected(hub, user, "asker", mode=mode, **options) as client:
            await said(
                client, "roots"
            )  # the question may come after the call, and be asked with the next
            await said(client, "roots")
            return await said(client, "roots")

    async with hub_of({"asker": asker(roots=True)}) as hub:
        for user in ("alice", "bob"):
            assert (await roots_of(hub, user))["roots"] == [{"uri": f"file:///{user}"}]


async def test_an_update_of_a_server_that_takes_no_subscriptions_reaches_the_sessions_of_its_user(
    hub_of,
):
    heard = {"alice": [], "bob": []}

    def hearing(user):
        async def take(message):
            if getattr(message, "method", "") == "notifications/resources/updated":
                heard[user].append(str(message.params.uri))

        return {"message_handler": take}

    async with (
        hub_of({"asker": asker()}) as hub,
        connected(hub, "alice", "asker", **hearing("alice")) as alice,
        connected(hub, "bob", "asker", **hearing("bob")) as bob,
    ):
        await until(lambda: len(hub.hub.outlets) == 2)
        await said(bob, "roots")
        await said(alice, "update")
        await until(lambda: heard["alice"] == ["note://a"])
        assert heard["bob"] == []


async def test_a_call_that_reports_progress_may_take_longer_but_not_for_ever(hub_of):
    async def ignore(progress, total, message):
        pass

    limits = {"limits": {"call_timeout_s": 1, "call_timeout_max_s": 6}}
    async with (
        hub_of({"asker": asker()}, overrides=limits) as hub,
        connected(hub, "alice", "asker") as client,
    ):
        steady = {"count": 6, "every_s": 0.3}
        assert await said(client, "busy", steady, progress_callback=ignore) == "done"
        for endless, seconds in (
            ({"count": 40, "every_s": 0.3}, r"6(\.\d+)?"),
            ({"count": 1, "every_s": 9}, r"1(\.\d+)?"),
        ):
            result = await client.call_tool("busy", endless, progress_callback=ignore)
            assert result.is_error
            assert re.search(
                rf"did not answer tools/call within {seconds} s", result.content[0].text
            )


async def test_a_legacy_client_hears_the_log_of_a_modern_server_that_does_not_announce_one(hub_of):
    heard = []

    async def log(params):
        heard.append(params.data)

    async with (
        hub_of({"asker": asker("both")}) as hub,
        connected(hub, "alice", "asker", logging_callback=log) as client,
    ):
        await said(client, "log")
        await until(lambda: heard == ["heard"])
