"""What an instance has and whom it reaches (rules R5, R8 to R11, R23), on the real hub with two users."""

import json
import os
import socket
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest
from tests.doors import BOTH_DOORS, through
from tests.interaction.clients import PYTHON, plain, raw_client, request
from tests.polling import until
from tests.security.asking import call, seen_by, set_credential, text_in

from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.anyio, BOTH_DOORS]

HERE = Path(__file__).parents[1] / "servers"
CANARY = "canary-in-the-environment-of-the-hub-4410"
REACHED = socket.create_server(("127.0.0.1", 0))
WHERE = f"127.0.0.1:{REACHED.getsockname()[1]}"


def confessing(**fields):
    return {
        "command": PYTHON,
        "args": [str(HERE / "confessing.py"), WHERE],
        "env": {"TOKEN": "${USER_TOKEN}", "WHO": "${USER_ID}", "NAME": "${USER_NAME}"},
        "groups": ["everyone"],
        "riskLevel": "critical",
        "sandbox": {"readable": [str(HERE)], "egress": [WHERE]},
        **fields,
    }


SERVERS = {"confessing": confessing(), "plain": plain(env={"TOKEN": "${USER_TOKEN}"})}
ENVIRON = {"MCPHUB_CANARY": CANARY, "USER_TOKEN": CANARY}


@pytest.fixture(scope="module", autouse=True)
def canary_in_the_hubs_process():
    """The hub's own environment, not only what it was told of it."""
    os.environ |= ENVIRON
    yield
    for name in ENVIRON:
        del os.environ[name]
    REACHED.close()


@pytest.fixture
async def users(hub):
    """Sessions of alice and bob at both servers, each with an own token."""
    for name in ("alice", "bob"):
        user_id = (await hub.hub.ground.directory.user(name)).id
        stored = (await hub.hub.ground.vault.states([user_id])).get(user_id, {})
        for server in SERVERS:
            if server not in stored:
                await set_credential(hub, name, server, "TOKEN", f"token-of-{name}")
    async with (
        raw_client(hub, "alice", "confessing") as alice,
        raw_client(hub, "bob", "confessing") as bob,
    ):
        await alice.open()
        await bob.open()
        yield {"alice": alice, "bob": bob}


async def confession(client, **arguments):
    return json.loads(text_in(await call(client, "confess", **arguments)))


def neutral(answer):
    (tool,) = answer.json()["result"]["tools"]
    return json.loads(tool["description"])


async def test_a_neutral_instance_has_placeholders_an_empty_home_and_no_network(hub, users):
    own = await confession(users["alice"], keep="a-file-of-alice")
    assert (
        own["reached"] and own["env"]["TOKEN"] == "token-of-alice"
    )  # the same server, started for her
    told = neutral(await users["bob"].post(request("tools/list")))
    assert told["env"]["TOKEN"] == "placeholder"
    assert told["env"]["WHO"] == told["env"]["NAME"] == "neutral"
    assert told["home"] == [] and told["reached"] is False
    shown = json.dumps(told)
    assert CANARY not in shown and "token-of-" not in shown


async def test_nothing_of_a_neutral_instance_stays_on_the_disk(hub, users):
    await users["bob"].post(request("tools/list"))
    homes = hub.hub.ground.settings.homes / "neutral"
    assert not homes.exists() or list(homes.iterdir()) == []


async def test_no_child_ever_has_the_hubs_environment(hub, users):
    for client in users.values():
        told = json.dumps(await confession(client))
        assert CANARY not in told and "MCPHUB_CANARY" not in told
    for instance in hub.hub.instances():
        family = [instance["pid"], *descendants(instance["pid"])]
        for pid in family:
            for name in ("environ", "cmdline"):
                try:
                    shown = Path(f"/proc/{pid}/{name}").read_bytes()  # noqa: ASYNC240
                except OSError:
                    continue  # gone meanwhile
                assert CANARY.encode() not in shown, (pid, name)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


async def test_the_environment_of_a_child_is_what_its_settings_say_and_nothing_more(users):
    told = await confession(users["alice"])
    fixed = {"HOME", "PATH", "TMPDIR", "USER", "LOGNAME", "LANG", "PWD", "LC_CTYPE", "SHLVL", "_"}
    assert set(told["env"]) - fixed == {"TOKEN", "WHO", "NAME"}
    assert told["env"]["NAME"] == "alice" and told["env"]["WHO"].startswith("u_")


async def test_two_users_never_share_a_process_a_uid_or_a_home(hub, users):
    seen: dict[str, set[tuple[object, ...]]] = {"alice": set(), "bob": set()}
    for round_ in range(6):
        for name, client in users.items():
            told = await confession(client, keep=f"{name}-{round_}")
            assert all(
                file.startswith(name) or "alice" in file for file in told["home"] if name == "alice"
            )
            assert not [file for file in told["home"] if name == "bob" and "alice" in file]
            home = hub.hub.ground.settings.homes / told["env"]["WHO"] / "confessing"
            seen[name].add((home.stat().st_uid, told["env"]["WHO"], told["env"]["TOKEN"]))
        if round_ % 2:
            for instance in hub.hub.instances():
                if instance["server"] == "confessing":
                    await hub.hub.stop_instance(instance["id"])
    assert len(seen["alice"]) == len(seen["bob"]) == 1 and not seen["alice"] & seen["bob"]
    if os.geteuid() == 0:
        assert {one[0] for one in seen["alice"]} != {one[0] for one in seen["bob"]}


async def test_the_environment_of_a_running_process_never_changes(hub, users):
    before = await confession(users["alice"])
    await set_credential(hub, "bob", "confessing", "TOKEN", "another-of-bob")
    same = await confession(users["alice"])
    assert (same["pid"], same["env"]) == (before["pid"], before["env"])
    old = await confession(users["bob"])
    await set_credential(hub, "bob", "confessing", "TOKEN", "token-of-bob")
    new = await confession(users["bob"])
    assert (old["env"]["TOKEN"], new["env"]["TOKEN"]) == ("another-of-bob", "token-of-bob")
    ids = [found["id"] for found in hub.hub.instances() if found["server"] == "confessing"]
    assert len(ids) == len(set(ids)) >= 2


async def test_what_an_instance_had_listed_dies_with_it(hub, users):
    async with raw_client(hub, "alice", "plain") as alice, raw_client(hub, "bob", "plain") as bob:
        await alice.open()
        await bob.open()
        await call(alice, "remember", value="of the first instance")
        await call(alice, "change")

        async def names(client):
            answer = await client.post(request("tools/list"))
            return {tool["name"] for tool in answer.json()["result"]["tools"]}

        await until_async(lambda: names(alice), lambda found: "new_tool" in found)
        assert "new_tool" not in await names(bob)
        await call(alice, "crash")
        assert text_in(await call(alice, "recall")) == "None"
        assert "new_tool" not in await names(alice)
        assert not [key for key in hub.hub.catalogs._own if key[0] not in running(hub)]


async def until_async(ask, holds):
    with anyio.fail_after(20):
        while not holds(await ask()):  # noqa: ASYNC110
            await anyio.sleep(0.02)


def running(hub):
    return {found["id"] for found in hub.hub.instances()}


async def test_nothing_of_a_dead_instance_reaches_anybody(hub, users):
    """Its calls fail for its owner, its streams stay silent, and the next one starts from nothing."""
    heard = {"alice": [], "bob": []}

    async def listen(name, client):
        async with client.http.stream("GET", client.url, headers=client.headers) as stream:
            async for line in stream.aiter_lines():
                heard[name].append(line)

    alice_id = (await hub.hub.ground.directory.user("alice")).id
    async with anyio.create_task_group() as group:
        for name, client in users.items():
            group.start_soon(listen, name, client)
        await until(lambda: len(hub.hub.outlets) >= 2)
        first = await confession(users["alice"])
        (instance,) = [
            found for found in hub.hub.pool.instances()
            if (found.owner, found.server) == (alice_id, "confessing")
        ]  # fmt: skip
        await confession(users["bob"])
        heard["alice"].clear()
        await hub.hub.stop_instance(instance.id)
        second = await confession(users["alice"])
        assert second["env"] == first["env"] and instance.id not in running(hub)
        assert instance.upstream.pending == 0
        assert not [line for lines in heard.values() for line in lines if line.startswith("data")]
        group.cancel_scope.cancel()


async def test_a_server_that_speaks_out_of_turn_reaches_its_own_user_at_most(hub, users):
    heard = {"alice": [], "bob": []}

    async def listen(name, client):
        async with client.http.stream("GET", client.url, headers=client.headers) as stream:
            async for line in stream.aiter_lines():
                heard[name].append(line)

    secret = "spoken-out-of-turn-by-alices-server"
    async with anyio.create_task_group() as group:
        for name, client in users.items():
            group.start_soon(listen, name, client)
        await until(lambda: len(hub.hub.outlets) >= 2)
        for _ in range(3):
            async with anyio.create_task_group() as both:
                got = {}

                async def ask(name, into=got, **arguments):
                    params = {
                        "name": "confess",
                        "arguments": arguments,
                        "_meta": {"progressToken": 201},
                    }
                    into[name] = await users[name].post(request("tools/call", params, id=201))

                both.start_soon(lambda: ask("alice", garble=secret))
                both.start_soon(lambda: ask("bob"))
            assert secret not in got["bob"].text
            assert "token-of-alice" in got["alice"].text
            assert "notifications/progress" not in got["alice"].text  # of no call of hers
            assert json.loads(got["bob"].text)["id"] == 201
        await until(lambda: any(secret in line for line in heard["alice"]))
        assert not any(secret in line for line in heard["bob"])
        group.cancel_scope.cancel()


NASTY = [
    "../../etc/passwd", "%2e%2e%2f%2e%2e%2fhub.db", "..%2f..%2fhub.db", "/etc/passwd", "a/b", "a\\b", "\x00",
    "x\x00y", "\u202egnp.exe", "\ud7ff\u00e9\u00df", "con", "~root", "$HOME", "`id`", "$(id)", "; rm -rf /", "|id", "x" * 300,
    "x" * 5000, "*", "{}", "${USER_TOKEN}", "%s%n", "' OR 1=1 --", "\r\nX-Evil: 1", "\x1b[2J", "neutral", "shared",
]  # fmt: skip


def tree(root: Path) -> set[str]:
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if not path.name.startswith(("hub.db", "."))
    }


@pytest.mark.parametrize("name", NASTY)
async def test_no_name_of_a_client_touches_a_path(hub, users, name):
    root = hub.hub.ground.settings.dir
    await confession(users["bob"])
    before = tree(root)
    bob = users["bob"]
    quoted = quote(name, safe="")
    for path in (f"/mcp/{quoted}", f"/mcp/@{quoted}", f"/api/me/credentials/{quoted}/TOKEN",
                 f"/api/me/credentials/plain/{quoted}", f"/{quoted}", f"/api/{quoted}"):  # fmt: skip
        for verb in ("POST", "GET", "PUT", "DELETE"):
            answer = await bob.http.request(verb, hub.url + path, json={"value": "x"})
            assert answer.status_code in {307, 400, 404, 405}, (verb, path, answer.text)
            assert str(root) not in answer.text and "token-of" not in answer.text
    async with raw_client(hub, "bob", "") as everything:
        await everything.open()
        for client in (bob, everything):
            for method, params in (
                ("tools/call", {"name": name}), ("prompts/get", {"name": name}), ("resources/read", {"uri": name}),
                ("resources/read", {"uri": f"file://{name}"}), ("resources/subscribe", {"uri": name}),
                ("completion/complete", {"ref": {"type": "ref/prompt", "name": name}, "argument": {}}),
                ("logging/setLevel", {"level": name}), ("tools/list", {"cursor": name}),
            ):  # fmt: skip
                answer = await client.post(request(method, params))
                assert answer.status_code in {200, 400, 404}
                assert str(root) not in answer.text
        opened = await everything.post(
            request(
                "initialize",
                {"protocolVersion": name, "clientInfo": {"name": name, "version": name}},
            )
        )
        assert opened.status_code == 200
    assert {path for path in tree(root) - before if not path.startswith("homes/u_")} == set()


@pytest.mark.parametrize("name", NASTY)
async def test_a_users_own_name_touches_no_path(hub, tmp_path, name):
    """Whatever name an administrator gives: refused, or an opaque id stands for it everywhere."""
    from mcphub.errors import HubError

    try:
        user = await hub.hub.ground.directory.add_user(name)
    except HubError:
        return
    assert user.id.startswith("u_") and user.id[2:].isalnum()
    await hub.hub.ground.directory.remove_user(user.id)


async def test_homes_are_named_by_opaque_ids_only(hub, users):
    for client in users.values():
        await confession(client)
    homes = hub.hub.ground.settings.homes
    ids = {user.id for user in await hub.hub.ground.directory.users()}
    for path in homes.iterdir():
        assert path.name in ids | {"neutral"}
        assert path.name == "neutral" or {found.name for found in path.iterdir()} <= set(SERVERS)


async def test_a_disabled_user_has_nothing_that_runs(tmp_path, fast_lane):
    users = {"carol": [], "dave": []}
    async with serving_hub(
        tmp_path / "hub",
        {"plain": plain()},
        users,
        administrators=["root"],
        environ=dict(os.environ),
        overrides=through(fast_lane),
    ) as hub:
        async with raw_client(hub, "carol") as carol, raw_client(hub, "dave") as dave:
            await carol.open()
            await dave.open()
            for client in (carol, dave):
                await seen_by(client)
            pid = {found["user"]: found["pid"] for found in hub.hub.instances()}
            carol_id = (await hub.hub.ground.directory.user("carol")).id
            await hub.hub.ground.directory.disable_user("carol")
            await hub.hub.refresh()
            assert (await carol.post(request("ping"))).status_code == 401
            await until(
                lambda: {found["user"] for found in hub.hub.instances()} == pid.keys() - {carol_id}
            )
            assert not Path(f"/proc/{pid[carol_id]}/cmdline").exists()  # noqa: ASYNC240
            assert (await dave.post(request("ping"))).status_code == 200
