"""Credentials in files (`files` of a server): each user's in the own instance's memory, and nowhere else.

Two users on a real hub, each with a key file and a token in `.netrc`; what a server can do to its own
home is tried against the hub. The places where a start makes them: tests/contracts/test_spawner.py.
"""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.interaction.clients import Raw, plain, raw_client, request
from tests.polling import until
from tests.security.asking import call, seen_by, set_credential, text_in
from tests.security.test_rules_secrets import Served

from mcphub.ids import instance_id, opaque

pytestmark = pytest.mark.anyio

FILES = {
    "~/.mail/key.json": "${USER_KEY}",
    "~/.netrc": "machine a login ${USER_NAME} password ${USER_TOKEN}\n",
}
SERVERS = {"plain": plain(files=FILES, env={"KEY_FILE": "${USER_HOME}/.mail/key.json"})}
WORDS = {name: opaque(f"canary-{name}") for name in ("alice", "bob", "later")}
PLACE = "/run/mcp/files"


def key_of(word: str) -> str:
    """A key file as services hand them out: of several lines, one of them secret."""
    return json.dumps(
        {"type": "account", "private_key": f"-----BEGIN\n{word}\n-----END\n"}, indent=1
    )


async def give(hub, user: str, word: str) -> None:
    await set_credential(hub, user, "plain", "KEY", key_of(word))
    await set_credential(hub, user, "plain", "TOKEN", f"token-{word}")


@pytest.fixture
async def users(hub):
    """Sessions of alice and bob, each with own files."""
    for name in ("alice", "bob"):
        await give(hub, name, WORDS[name])
    async with raw_client(hub, "alice", "plain") as alice, raw_client(hub, "bob", "plain") as bob:
        await alice.open()
        await bob.open()
        yield {"alice": alice, "bob": bob}


async def read(client: Raw, path: str) -> str:
    """What the caller's instance finds at a path; the server's error where it finds nothing."""
    return (await call(client, "read", path=path)).text


async def home_of(hub, user: str) -> Path:
    principal = await hub.hub.ground.directory.principal_of(user)
    return hub.hub.launcher.home(principal.user_id, "plain")


def holding(word: str, since: float, *places: Path) -> Iterator[str]:
    """Every file, command line and environment of this machine in which a word stands in clear."""
    needle = word.encode()
    for place in places:
        for path in place.rglob("*"):
            try:
                fresh = path.is_file() and not path.is_symlink() and path.stat().st_mtime >= since
                if fresh and needle in path.read_bytes():
                    yield str(path)
            except OSError:
                continue
    for process in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                if needle in (process / name).read_bytes():
                    yield f"{process}/{name}"
            except OSError:
                continue


def temporary() -> list[Path]:
    """Where programs of this machine keep what is not to last."""
    return [Path("/dev/shm"), *Path(tempfile.gettempdir()).glob("mcphub*")]


async def test_each_user_has_the_own_files_and_finds_nobody_elses(hub, users):
    for name, client in users.items():
        own = await seen_by(client)
        place = own["env"]["KEY_FILE"]
        assert json.loads(text_in(await call(client, "read", path=place))) == json.loads(
            key_of(WORDS[name])
        )
        netrc = text_in(await call(client, "read", path=f"{own['home']}/.netrc"))
        assert netrc == f"machine a login {name} password token-{WORDS[name]}\n"
        assert WORDS[name] not in json.dumps(own["env"])
    homes = {name: await home_of(hub, name) for name in users}
    pids = [each.pid for each in hub.hub.pool.instances() if each.pid]
    ways = [
        f"{homes['alice']}/.mail/key.json", f"{homes['alice']}/.netrc", f"{PLACE}/.mail/key.json",
        *(f"/proc/{pid}/root{PLACE}/.mail/key.json" for pid in (1, *pids)),
        *(f"/proc/{pid}/root/home/u/.netrc" for pid in pids),
        *(f"/proc/{pid}/environ" for pid in pids), "/run/mcp/exec", "/oldroot/run/mcp/files/.netrc",
    ]  # fmt: skip
    for way in ways:
        assert WORDS["alice"] not in await read(users["bob"], way), way


async def test_an_instance_of_nobody_has_files_of_the_right_form_with_nothing_of_a_user(hub, users):
    spec = hub.hub.ground.live.current.specs["plain"]
    launch = await hub.hub.launcher.neutral(spec, instance_id())
    made = {place: text.reveal() for place, text in launch.files.items()}
    assert json.loads(made[".mail/key.json"])["access_token"] == "placeholder"
    assert made[".netrc"] == "machine a login neutral password placeholder\n"
    await hub.hub.launcher.discard(launch)


async def test_nothing_of_a_file_is_on_the_hosts_disk_or_in_any_command_line(hub, users):
    since = time.time() - 600
    for name, client in users.items():
        assert WORDS[name] in await read(client, "/home/u/.netrc")
    directory = hub.hub.ground.settings.dir
    # in the directory are database, records, sandboxes and homes
    for name in users:
        assert not list(holding(WORDS[name], since, directory, *temporary()))
        home = await home_of(hub, name)
        assert (home / ".netrc").readlink() == Path(PLACE, ".netrc")
        assert not [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]


async def test_a_new_value_is_in_the_next_call_and_a_deleted_one_ends_the_server(hub, users):
    alice, bob = users["alice"], users["bob"]
    await seen_by(alice)
    other = (await seen_by(bob))["pid"]
    await give(hub, "alice", WORDS["later"])
    assert WORDS["later"] in await read(alice, "/home/u/.mail/key.json")
    assert WORDS["alice"] not in await read(alice, "/home/u/.netrc")
    assert (await seen_by(bob))["pid"] == other
    principal = await hub.hub.ground.directory.principal_of("alice")
    await hub.hub.ground.vault.delete(principal, "plain", "KEY")
    await hub.hub.refresh()
    refused = (await call(alice, "read", path="/home/u/.netrc")).text
    assert "mcphub credential set plain KEY --from-file FILE" in refused
    assert WORDS["later"] not in refused
    owner = principal.user_id
    await until(lambda: not [each for each in hub.hub.pool.instances() if each.owner == owner])
    home = await home_of(hub, "alice")
    assert not [path for path in home.rglob("*") if not path.is_dir()]
    assert WORDS["bob"] in await read(bob, "/home/u/.netrc")


async def test_a_token_that_the_server_renews_lives_as_long_as_its_instance(hub, users):
    alice = users["alice"]
    renewed = opaque("renewed")
    await call(alice, "write", path="/home/u/.netrc", text=f"machine a password {renewed}")
    assert renewed in await read(alice, "/home/u/.netrc")
    since = time.time() - 60
    assert not list(holding(renewed, since, hub.hub.ground.settings.dir))
    # in the place of the link, as by a rename: that one is on disk, until the instance ends
    home = await home_of(hub, "alice")
    (home / ".netrc").unlink()
    await call(alice, "write", path="/home/u/.netrc", text=f"machine a password {renewed}")
    owner = (await hub.hub.ground.directory.principal_of("alice")).user_id
    for instance in [each for each in hub.hub.pool.instances() if each.owner == owner]:
        await hub.hub.pool.stop(instance)
    assert not list(holding(renewed, since, hub.hub.ground.settings.dir))
    assert WORDS["alice"] in await read(alice, "/home/u/.netrc")


async def test_a_link_that_a_server_leaves_leads_the_hub_nowhere(hub, users):
    """What ends an instance removes names of its home only, never what a link there leads to."""
    alice = users["alice"]
    await seen_by(alice)
    await seen_by(users["bob"])
    home = await home_of(hub, "alice")
    bobs = await home_of(hub, "bob")
    victim = bobs / "key.json"
    victim.write_text("bob's own")
    (home / ".mail" / "key.json").unlink()
    (home / ".mail").rmdir()
    (home / ".mail").symlink_to(bobs)
    owner = (await hub.hub.ground.directory.principal_of("alice")).user_id
    for instance in [each for each in hub.hub.pool.instances() if each.owner == owner]:
        await hub.hub.pool.stop(instance)
    assert victim.read_text() == "bob's own"
    (home / ".mail").unlink()
    victim.unlink()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, str]]:
    hub = Served(tmp_path_factory.mktemp("killed") / "hub", "anna", "ben")
    (hub.directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": SERVERS}))
    for user, word in (("anna", "alice"), ("ben", "bob")):
        key = hub.directory.parent / f"{user}.json"
        key.write_text(key_of(WORDS[word]))
        words = ("credential", "set", "plain", "KEY", "--user", user, "--from-file", str(key))
        assert WORDS[word] not in json.dumps(hub.ask(*words))
        key.unlink()
        words = ("credential", "set", "plain", "TOKEN", "--user", user)
        hub.ask(*words, stdin=f"token-{WORDS[word]}")
    yield hub, hub.start()
    hub.process.kill()
    hub.process.wait(10)


async def ask(hub: Served, url: str, user: str, path: str) -> str:
    headers = {
        "Authorization": f"Bearer {hub.keys[user]}",
        "Accept": "application/json, text/event-stream",
    }
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        opening = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        first = await http.post(f"{url}/mcp/plain", json=request("initialize", opening))
        http.headers["Mcp-Session-Id"] = first.headers["mcp-session-id"]
        message = request("tools/call", {"name": "read", "arguments": {"path": path}})
        return (await http.post(f"{url}/mcp/plain", json=message)).text


async def test_a_killed_hub_leaves_no_file_and_commands_show_names_only(served):
    hub, url = served
    since = time.time() - 600
    assert WORDS["alice"] in await ask(hub, url, "anna", "/home/u/.mail/key.json")
    assert WORDS["bob"] in await ask(hub, url, "ben", "/home/u/.mail/key.json")
    shown = [hub.run("server", "show", "plain"), hub.run("server", "show", "plain", "--json")]
    shown += [hub.run("explain", "anna", "plain"), hub.run("credential", "guide", "plain")]
    shown += [hub.run("instances", "--json"), hub.run("credential", "list", "--user", "anna")]
    said = "".join(done.stdout + done.stderr for done in shown)
    assert "~/.mail/key.json" in said
    assert "login ${USER_NAME}" not in said
    assert not [word for word in WORDS.values() if word in said]
    os.kill(hub.process.pid, signal.SIGKILL)
    hub.process.wait(10)
    await until(lambda: not _in_homes(hub.directory))
    assert not list(holding(WORDS["alice"], since, hub.directory))
    assert WORDS["alice"] not in hub.log.read_text()
    assert not list(holding(WORDS["alice"], since, hub.directory.parent, *temporary()))


def _in_homes(directory: Path) -> list[str]:
    """Processes that still have one of the homes mounted."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory / "homes") in (process / "mountinfo").read_text():
                found.append(process.name)
        except OSError:
            continue
    return found
