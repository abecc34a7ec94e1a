"""A call goes as an earlier one of its caller was decided only as long as it would be decided so again."""

import json
from contextlib import AsyncExitStack

import anyio
import pytest
from mcp.types import ElicitResult

from mcphub.gateway.calls import SEPARATOR
from mcphub.spawn.instance import State
from tests.interaction.clients import MODERN, connected, plain, raw_client, request, scripted, tools
from tests.polling import until

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


@pytest.fixture
async def hub(hub_of):
    servers = {
        "plain": plain(groups=["engineering", "data"]),
        "script": scripted({"tools": tools("verbatim", "line", "counts", "flood")}),
    }
    async with hub_of(servers) as running:
        # a list that comes to be known ends the ways that were found without it
        catalogs = running.hub.plane.catalogs
        await until(lambda: all(map(catalogs.known, running.hub.access.specs.values())))
        yield running


class Caller:
    """A raw client whose calls all have one head.

    The first one starts the server, two more teach the way: later ones go it.
    """

    def __init__(self, hub, raw, era):
        self.hub, self.raw, self.era, self.id = hub, raw, era, 0

    @property
    def known(self):
        return self.hub.hub.plane.metrics.known

    async def call(self, name, arguments=None, *, id=None, meta=None):
        """The response to a call; its id is new unless given."""
        self.id += 1
        params = {"name": name, "arguments": {} if arguments is None else arguments}
        used = self.id if id is None else id
        if self.era == "modern":
            answer = await self.raw.modern("tools/call", params, used, meta)
        else:
            if meta is not None:
                params["_meta"] = meta
            answer = await self.raw.post(request("tools/call", params, used))
        found = answer.json()
        assert found["id"] == used
        return found

    async def text(self, name, arguments=None, **more):
        """The text of a call's result."""
        return (await self.call(name, arguments, **more))["result"]["content"][0]["text"]

    async def make_known(self, name="echo", arguments=None):
        """Call until the way is known, and see that it is gone."""
        arguments = {"text": "x"} if arguments is None else arguments
        before = self.known
        for _ in range(8):
            assert "result" in await self.call(name, arguments)
            if self.known > before:
                return
        raise AssertionError("no call went a known way")


class Callers:
    """Opens callers; closes them at the end."""

    def __init__(self, hub, stack):
        self.hub, self.stack = hub, stack

    async def of(self, user, era="legacy", server="plain"):
        raw = await self.stack.enter_async_context(raw_client(self.hub, user, server))
        if era == "legacy":
            await raw.open()
        return Caller(self.hub, raw, era)


@pytest.fixture
async def callers(hub):
    async with AsyncExitStack() as stack:
        yield Callers(hub, stack)


@ERAS
async def test_calls_that_go_a_known_way_carry_their_own_ids_and_arguments(callers, era):
    alice = await callers.of("alice", era)
    await alice.make_known("params", {"n": 0})
    known = alice.known
    for given in (
        {"n": 1},
        {"text": 'größe \u2028 \\ " 王'},
        {"deep": [{"a": None, "b": 1e400 > 1}]},
        {},
    ):
        for used in (7, -7, 'text " id', 2**60):
            assert json.loads(await alice.text("params", given, id=used))["arguments"] == given
    assert alice.known >= known + 12


@ERAS
async def test_two_users_who_call_alike_keep_their_own_processes(callers, era):
    alice, bob = await callers.of("alice", era), await callers.of("bob", era)
    for one in (alice, bob):
        await one.make_known("remember", {"value": "nothing"})
        await one.make_known("recall", {})

    async def work(one, value):
        for number in range(20):
            await one.text("remember", {"value": f"{value}{number}"})
            assert await one.text("recall") == f"{value}{number}"

    async with anyio.create_task_group() as group:
        group.start_soon(work, alice, "a")
        group.start_soon(work, bob, "b")


@ERAS
async def test_what_the_server_gets_is_what_the_first_call_brought_it(callers, era):
    alice = await callers.of("alice", era, "script")
    lines = [
        json.loads(await alice.text("line", {"a": 1}, meta={"mine": "kept"})) for _ in range(5)
    ]
    assert alice.known >= 2
    numbers = [line.pop("id") for line in lines]
    assert all(line == lines[0] for line in lines) and len(set(numbers)) == 5
    meta = lines[3]["params"]["_meta"]
    assert meta == {"mine": "kept"}, "what belongs to the caller's hop went on"


@ERAS
async def test_a_revoked_key_is_refused_on_the_next_call_of_a_known_way(callers, era):
    alice = await callers.of("alice", era)
    await alice.make_known()
    directory = callers.hub.hub.ground.directory
    for key in await directory.keys((await directory.user("alice")).id):
        await directory.revoke_key(key.id)
    await callers.hub.hub.refresh()
    answer = await alice.raw.post(
        request("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    )
    assert answer.status_code == 401


@ERAS
async def test_who_left_the_group_goes_no_known_way(callers, era):
    alice, bob = await callers.of("alice", era), await callers.of("bob", era)
    await alice.make_known()
    await bob.make_known()
    await callers.hub.hub.ground.directory.leave("alice", "engineering")
    await callers.hub.hub.refresh()
    assert "error" in await alice.call("echo", {"text": "x"})
    assert await bob.text("echo", {"text": "mine"}) == "mine"


async def test_an_ended_session_goes_no_known_way(callers):
    alice = await callers.of("alice")
    await alice.make_known()
    assert (
        await alice.raw.http.delete(alice.raw.url, headers=alice.raw.headers)
    ).status_code == 204
    body = request("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    assert (await alice.raw.post(body)).status_code == 404


@ERAS
async def test_after_its_instance_stopped_a_call_gets_a_new_one(callers, era):
    alice = await callers.of("alice", era)
    await alice.make_known()
    pool = callers.hub.hub.pool
    (instance,) = [one for one in pool.instances() if one.owner.startswith("u_")]
    await pool.stop(instance)
    assert instance.state is State.STOPPED
    assert await alice.text("echo", {"text": "again"}) == "again"
    last = (await recent_records(callers.hub))[-1]
    assert last.instance_id not in {"", instance.id}
    await alice.make_known()


@ERAS
async def test_a_server_that_ends_in_the_middle_of_a_known_way_ends_the_call_only(callers, era):
    alice, bob = await callers.of("alice", era), await callers.of("bob", era)
    await alice.make_known()
    await bob.make_known("remember", {"value": "bob's"})
    crashed = await alice.call("crash")
    assert crashed["result"]["isError"]
    await alice.make_known()
    assert await bob.text("recall") == "bob's"


async def test_a_wish_for_more_log_messages_is_heard_on_a_known_way(callers):
    alice = await callers.of("alice", server="script")
    await alice.make_known("line", {})
    before = alice.known
    await alice.raw.post(request("logging/setLevel", {"level": "debug"}))
    await alice.call("line")
    assert alice.known == before, "it was not decided anew"
    await alice.make_known("line", {})


async def test_a_second_request_with_an_id_that_is_in_flight_is_refused(callers):
    alice = await callers.of("alice")
    await alice.make_known("slow", {"seconds": 0})
    async with anyio.create_task_group() as group:
        group.start_soon(alice.call, "slow", {"seconds": 30})
        session = lambda: any(one.in_flight for one in callers.hub.hub.pool.instances())  # noqa: E731
        await until(session)
        used = alice.id
        other = await alice.raw.post(
            request("tools/call", {"name": "slow", "arguments": {"seconds": 0}}, used)
        )
        assert other.json()["error"]["code"] == -32600
        cancel = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": used},
        }
        await alice.raw.post(cancel)
        group.cancel_scope.cancel()
    await until(lambda: not callers.hub.hub.plane.in_flight)


async def test_the_limit_of_calls_in_flight_counts_on_a_known_way(hub_of):
    async with hub_of({"plain": plain()}, overrides={"limits": {"calls_per_user": 2}}) as hub:
        async with raw_client(hub, "alice") as first, raw_client(hub, "alice") as second:
            await first.open()
            await second.open()
            one, other = Caller(hub, first, "legacy"), Caller(hub, second, "legacy")
            await one.make_known("slow", {"seconds": 0})
            await other.make_known("slow", {"seconds": 0})
            answers = []

            async def call(caller, number):
                answers.append(await caller.call("slow", {"seconds": 1}, id=1000 + number))

            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(call, (one, other)[number % 2], number)
            assert sorted("error" in answer for answer in answers) == [False, False, True, True]


@ERAS
async def test_a_slow_call_on_a_known_way_ends_well(callers, era):
    alice = await callers.of("alice", era)
    await alice.make_known("slow", {"seconds": 0})
    known = alice.known
    assert await alice.text("slow", {"seconds": 0.6}) == "slept"
    assert alice.known == known + 1


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_a_question_on_a_known_way_reaches_the_caller(hub, mode):
    async def work(user):
        async def elicit(context, params):
            assert params.message == user
            return ElicitResult(action="accept", content={"colour": user})

        async with connected(hub, user, mode=mode, elicitation_callback=elicit) as client:
            for _ in range(5):
                result = await client.call_tool("ask", {"text": user})
                assert json.loads(result.content[0].text)["content"] == {"colour": user}

    async with anyio.create_task_group() as group:
        for user in ("alice", "bob"):
            group.start_soon(work, user)
    assert not hub.hub.plane.in_flight


@ERAS
async def test_progress_is_each_calls_own(callers, era):
    alice = await callers.of("alice", era, "script")
    for token in (1, 2, 3, 3, 3):
        params = {"name": "flood", "arguments": {"count": 2, "bytes": 1}}
        if era == "modern":
            answer = await alice.raw.modern("tools/call", params, meta={"progressToken": token})
        else:
            answer = await alice.raw.post(
                request("tools/call", params | {"_meta": {"progressToken": token}})
            )
        assert answer.text.count(f'"progressToken":{token}') == 2
    assert not alice.known


@ERAS
@pytest.mark.parametrize(
    "result",
    ['{"content":[],"isError":true}', '{"content":[],"task":{"taskId":"t","status":"working"}}'],
    ids=["tool error", "task"],
)
async def test_a_result_that_matters_to_the_hub_is_read_on_a_known_way(callers, era, result):
    alice = await callers.of("alice", era, "script")
    await alice.make_known("verbatim", {"result": '{"content":[]}'})
    known = alice.known
    answer = await alice.call("verbatim", {"result": result})
    assert alice.known == known + 1
    if "taskId" in result:
        owner = (await callers.hub.hub.ground.directory.user("alice")).id
        assert callers.hub.hub.plane.task_owners.servers(owner, "t") == {"script"}
    else:
        assert answer["result"]["isError"]
        recent = await recent_records(callers.hub)
        assert recent[-1].outcome == "tool_error"


async def recent_records(hub):
    await hub.hub.plane.recorder.flush()
    return (await hub.hub.ground.requests.recent()).records


@ERAS
async def test_a_known_way_leaves_the_same_records_and_counts(callers, era):
    alice = await callers.of("alice", era)
    for _ in range(5):
        await alice.call("echo", {"text": "same"}, id=1)
    assert alice.known == 2
    first, *others = (await recent_records(callers.hub))[-5:]
    for other in others:
        for name in first.__slots__:
            if name not in {"id", "at", "duration_ms"}:
                assert getattr(other, name) == getattr(first, name), name
        assert other.id != first.id and first.at <= other.at and other.duration_ms >= 0
    text = callers.hub.hub.plane.metrics.text({})
    assert 'mcphub_calls_total{server="plain",method="tools/call",outcome="ok"} 5' in text


@ERAS
async def test_a_name_of_the_aggregated_endpoint_is_looked_up_again_when_the_list_changed(
    callers, era
):
    alice = await callers.of("alice", era, "")
    name = f"plain{SEPARATOR}echo"
    if era == "legacy":
        await alice.raw.post(request("tools/list"))
    else:
        await alice.raw.modern("tools/list")
    await alice.make_known(name)
    known = alice.known
    await alice.call(f"plain{SEPARATOR}change")
    await alice.make_known(name)
    assert alice.known > known
    assert await alice.text("remember", {"value": "x"}) == "ok"  # a bare name
    for number in range(3):
        assert await alice.text("remember", {"value": str(number)}) == "ok"
    bare = alice.known
    assert await alice.text("remember", {"value": "y"}) == "ok"
    assert alice.known == bare, "a bare name depends on what all servers list"


async def test_a_denied_tool_has_no_way(hub_of):
    async with hub_of({"plain": plain(tools={"deny": ["echo"]})}) as hub:
        async with raw_client(hub, "alice") as raw:
            await raw.open()
            alice = Caller(hub, raw, "legacy")
            for _ in range(4):
                assert "error" in await alice.call("echo", {"text": "x"})
            assert not alice.known


async def test_a_client_that_vanishes_on_a_known_way_leaves_nothing(hub):
    for _ in range(3):
        async with raw_client(hub, "alice") as raw:
            alice = Caller(hub, raw, "modern")
            await alice.make_known("slow", {"seconds": 0})
            with anyio.move_on_after(0.1):
                await alice.call("slow", {"seconds": 30})
    await until(lambda: not hub.hub.plane.in_flight)
    assert not any(one.in_flight for one in hub.hub.pool.instances())


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_ordinary_client_goes_known_ways(hub, mode):
    async with connected(hub, "alice", mode=mode) as client:
        for number in range(5):
            result = await client.call_tool("echo", {"text": str(number)})
            assert result.content[0].text == str(number)
    assert hub.hub.plane.metrics.known >= 2
