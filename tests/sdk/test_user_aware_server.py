"""A server made user-aware, in each of the three kinds and in both eras: who calls is known, and only that."""

import json

import anyio
import pytest
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError

from mcphub_sdk import (
    EXTENSION,
    FileStore,
    WrongSettings,
    WrongUser,
    current_user,
    new_decryption_key,
    user_aware,
)
from mcphub_sdk.testing import TestHub, assert_non_interference
from tests.sdk.servers import KINDS, official

pytestmark = pytest.mark.anyio
MODERN = "2026-07-28"


@pytest.fixture(params=["legacy", MODERN])
def mode(request):
    return request.param


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


@pytest.fixture
def hub():
    return TestHub()


async def test_each_user_sees_the_own_state_only(make, mode, hub):
    await assert_non_interference(
        lambda: make(without_user="refuse", trust=hub.trust),
        hub,
        writes=lambda canary: [("remember", {"text": canary})],
        reads=[("recall", {}), ("whoami", {})],
        mode=mode,
    )


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_check_finds_a_server_that_mixes_its_users(mode, hub):
    def leaky():
        server, notes = MCPServer("leaky", log_level="CRITICAL"), {}

        @server.tool()
        def remember(text: str) -> str:
            notes["note"] = text
            return "kept"

        @server.tool()
        def recall() -> str:
            return str(notes.get("note"))

        return user_aware(server, without_user="refuse", trust=hub.trust)

    with pytest.raises(AssertionError, match="recall shows bob what alice wrote"):
        await assert_non_interference(
            leaky,
            hub,
            writes=lambda canary: [("remember", {"text": canary})],
            reads=[("recall", {})],
            mode=mode,
        )


async def test_groups_and_permissions_arrive_with_resources_and_prompts_too(make, mode, hub):
    async with hub.client(make(without_user="refuse", trust=hub.trust), mode) as users:
        alice = users.as_user("alice", groups=["a"], permissions=["p", "q"])
        bob = users.as_user("bob")
        assert await alice.text_of("whoami") == "alice ['a'] ['p', 'q']"
        assert await bob.text_of("whoami") == "bob [] []"
        await alice.text_of("remember", {"text": "hers"})
        assert (await alice.read_resource("note://mine")).contents[0].text == "hers"
        assert (await bob.read_resource("note://mine")).contents[0].text == "None"
        prompt = await bob.get_prompt("about", {"topic": "x"})
        assert prompt.messages[0].content.text == "x of bob"


async def test_a_request_without_a_user_is_refused_and_lists_are_not(make, mode, hub):
    async with hub.client(make(without_user="refuse", trust=hub.trust), mode) as users:
        assert {tool.name for tool in (await users.client.list_tools()).tools} >= {"recall"}
        with pytest.raises(MCPError) as refused:
            await users.anonymously("recall")
        assert "needs to know its user" in refused.value.message
        assert refused.value.code == (4012 if mode == "legacy" else -32021)
        if mode != "legacy":
            assert refused.value.data == {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}


async def test_an_anonymous_request_reaches_only_what_needs_no_user(make, mode, hub):
    async with hub.client(make(without_user="anonymous", trust=hub.trust), mode) as users:
        await users.as_user("alice").text_of("remember", {"text": "hers"})
        assert (await users.anonymously("whoami")).content[0].text == "nobody"
        told = (await users.anonymously("recall")).content[0].text
        assert "needs a user" in told and "hers" not in told


async def test_one_local_user_exists_only_where_no_hub_is_set(make, mode, hub):
    async with hub.client(make(without_user="one-user", trust={}), mode) as users:
        assert (await users.anonymously("remember", {"text": "x"})).content[0].text == "kept"
        assert (await users.anonymously("recall")).content[0].text == "x"
    async with hub.client(make(without_user="one-user", trust=hub.trust), mode) as users:
        await users.as_user("local").text_of("remember", {"text": "of a hub's user"})
        with pytest.raises(MCPError):  # stripped on the way: no downgrade to the local user
            await users.anonymously("recall")


FORGED = {
    "another hub's": lambda hub, params: TestHub(audience=hub.audience).assertion(
        "alice", "tools/call", params
    ),
    "expired": lambda hub, params: hub.assertion("alice", "tools/call", params, iat=1, exp=61),
    "from the future": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, iat=2**40, exp=2**40 + 60
    ),
    "of too long a life": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, exp=int(hub.clock()) + 301
    ),
    "for another server": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, aud="urn:example:other"
    ),
    "for many servers": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, aud=[hub.audience, "urn:example:other"]
    ),
    "of another issuer": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, iss="urn:example:evil"
    ),
    "for other arguments": lambda hub, params: hub.assertion(
        "alice", "tools/call", {**params, "arguments": {"text": "other"}}
    ),
    "for another tool": lambda hub, params: hub.assertion(
        "alice", "tools/call", {**params, "name": "recall"}
    ),
    "for another method": lambda hub, params: hub.assertion("alice", "resources/read", params),
    "without a subject": lambda hub, params: hub.assertion("", "tools/call", params),
    "without an id": lambda hub, params: hub.assertion("alice", "tools/call", params, jti=None),
    "without a binding": lambda hub, params: hub.assertion(
        "alice", "tools/call", params, request=None
    ),
    "with its signature cut off": lambda hub, params: (
        hub.assertion("alice", "tools/call", params).rpartition(".")[0] + "."
    ),
    "no token at all": lambda hub, params: "alice",
    "empty": lambda hub, params: "",
    "huge": lambda hub, params: "x" * 100_000,
}


@pytest.mark.parametrize("forged", FORGED)
@pytest.mark.parametrize("without_user", ["refuse", "anonymous"])
async def test_a_context_that_does_not_hold_is_refused_whatever_the_fallback(
    make, mode, hub, forged, without_user
):
    params = {"name": "remember", "arguments": {"text": "forged"}}
    server = make(without_user=without_user, trust=hub.trust)
    async with hub.client(server, mode) as users:
        meta = {EXTENSION: {"assertion": FORGED[forged](hub, params)}}
        with pytest.raises(MCPError) as refused:
            await users.client.call_tool("remember", params["arguments"], meta=meta)
        assert refused.value.code == 4013
        assert "alice" not in refused.value.message
        assert await users.as_user("alice").text_of("recall") == "None"


async def test_an_assertion_counts_once(make, mode, hub):
    server = make(without_user="refuse", trust=hub.trust)
    params = {"name": "recall", "arguments": {}}
    async with hub.client(server, mode) as users:
        meta = users.as_user("alice").meta("tools/call", params)
        await users.client.call_tool("recall", {}, meta=meta)
        with pytest.raises(MCPError, match="replayed"):
            await users.client.call_tool("recall", {}, meta=meta)


async def test_a_context_without_a_trusted_hub_is_refused(make, mode, hub):
    async with hub.client(make(without_user="one-user", trust={}), mode) as users:
        with pytest.raises(MCPError, match="which hub to trust"):
            await users.as_user("alice").call_tool("recall")


async def test_a_state_that_was_kept_refuses_another_user(mode, hub):
    kept = []
    server = MCPServer("keeps", log_level="CRITICAL")

    @server.tool()
    def keep() -> str:
        kept.append(current_user().state)
        kept[0]["note"] = "hers"
        return "kept"

    @server.tool()
    def use() -> str:
        return str(kept[0]["note"])

    user_aware(server, without_user="refuse", trust=hub.trust)
    async with hub.client(server, mode) as users:
        await users.as_user("alice").text_of("keep")
        assert await users.as_user("alice").text_of("use") == "hers"
        told = await users.as_user("bob").text_of("use")
        assert "Error executing tool" in told and "hers" not in told
    with pytest.raises(WrongUser):
        len(kept[0])


async def test_values_of_a_state_are_never_shared_objects(hub):
    server = MCPServer("lists", log_level="CRITICAL")
    shared = []

    @server.tool()
    def add(item: str) -> str:
        state = current_user().state
        state.setdefault("items", shared)
        state.update_with(lambda values: values["items"].append(item))
        return str(state["items"])

    user_aware(server, without_user="refuse", trust=hub.trust)
    async with hub.client(server) as users:
        assert await users.as_user("alice").text_of("add", {"item": "a"}) == "['a']"
        assert await users.as_user("bob").text_of("add", {"item": "b"}) == "['b']"
    assert shared == []


async def test_states_in_files_outlive_the_server_and_name_nobody(mode, hub, tmp_path):
    async def notes():
        store = FileStore(tmp_path / "states")
        async with hub.client(
            official(without_user="refuse", trust=hub.trust, store=store), mode
        ) as users:
            seen = [await users.as_user(name).text_of("recall") for name in ("alice", "bob")]
            await users.as_user("alice").text_of("remember", {"text": "hers"})
            return seen

    assert await notes() == ["None", "None"]
    assert await notes() == ["hers", "None"]
    files = list((tmp_path / "states").iterdir())
    assert len(files) == 1 and "alice" not in files[0].name
    assert files[0].stat().st_mode & 0o077 == 0


async def test_parallel_requests_of_two_users_keep_their_users(make, mode, hub):
    async with hub.client(make(without_user="refuse", trust=hub.trust), mode) as users:
        seen = {"alice": set(), "bob": set()}

        async def ask(user):
            for _ in range(20):
                seen[user].add(await users.as_user(user).text_of("whoami"))

        async with anyio.create_task_group() as group:
            for user in seen:
                group.start_soon(ask, user)
        assert seen == {"alice": {"alice [] []"}, "bob": {"bob [] []"}}


async def test_no_handler_sees_the_assertion(mode, hub):
    seen = []
    server = MCPServer("looks", log_level="CRITICAL")

    async def look(ctx, call_next):
        seen.append(json.dumps([ctx.params, ctx.meta], default=str))
        return await call_next(ctx)

    @server.tool()
    def ping() -> str:
        return "pong"

    server.middleware.append(look)
    user_aware(server, without_user="refuse", trust=hub.trust)
    async with hub.client(server, mode) as users:
        assert await users.as_user("alice").text_of("ping") == "pong"
    assert seen and not any(EXTENSION in text for text in seen if "ping" in text)


def test_a_server_that_cannot_be_made_user_aware_is_an_error(hub):
    with pytest.raises(TypeError, match="user_aware takes"):
        user_aware(object(), without_user="refuse", trust=hub.trust)
    with pytest.raises(TypeError, match="already"):
        user_aware(official(without_user="refuse", trust=hub.trust), without_user="refuse")
    with pytest.raises(ValueError, match="whatever"):
        official(without_user="whatever", trust=hub.trust)


@pytest.mark.parametrize(
    "trust",
    [
        {"issuer": "a", "audience": "b"},
        {"issuer": "a", "audience": "b", "jwks": {"keys": []}},
        {"issuer": "a", "audience": "b", "hub": "http://hub.example"},
        {"issuer": "", "audience": "b", "jwks": TestHub().jwks},
        {"issuer": "a", "jwks": TestHub().jwks},
        {**TestHub().trust, "verify": False},
    ],
    ids=["no keys", "empty keys", "plain http", "no issuer", "no audience", "unknown member"],
)
def test_trust_that_would_verify_nothing_stops_the_server(trust):
    with pytest.raises(WrongSettings):
        official(without_user="refuse", trust=trust)


def test_the_hub_of_the_environment_is_trusted_and_its_text_is_never_shown(hub, monkeypatch):
    monkeypatch.setenv("MCPHUB_USER_CONTEXT", json.dumps(hub.trust))
    monkeypatch.setenv("MCPHUB_USER_CONTEXT_KEY", json.dumps(new_decryption_key()))
    official(without_user="refuse")
    monkeypatch.setenv("MCPHUB_USER_CONTEXT_KEY", "canary-of-a-key")
    with pytest.raises(WrongSettings) as told:
        official(without_user="refuse")
    assert "canary" not in str(told.value)
