"""The whole hub as a process: killed, stopped, interrupted twice, started twice; as root and as a plain user."""

import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.chaos.serving import HubProcess, wait_until_gone
from tests.unprivileged import ROOT, needs_plain_user, place_of_a_plain_user

PYTHON = "/usr/bin/python3"
STUBBORN = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    message = json.loads(line)
    results = {
        "initialize": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                       "serverInfo": {"name": "stubborn", "version": "1"}},
        "tools/list": {"tools": [{"name": "up", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "up"}]},
    }
    if "id" in message:
        result = results.get(message["method"], {})
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
while True:
    time.sleep(60)
"""


def plain(folder: Path, **sandbox: object) -> dict[str, object]:
    return {
        "command": PYTHON,
        "args": [str(folder / "plain.py")],
        "groups": ["everyone"],
        "sandbox": {"readable": [str(folder)], **sandbox},
    }


def two_servers(folder: Path) -> dict[str, object]:
    return {"quiet": plain(folder), "online": plain(folder, egress=["host.example"])}


def stubborn() -> dict[str, object]:
    return {"command": PYTHON, "args": ["-c", STUBBORN], "groups": ["everyone"]}


@pytest.fixture(params=["root", pytest.param("plain user", marks=needs_plain_user)])
def hub(request, tmp_path):
    """A hub with two servers, one of them with egress, and users alice and bob."""
    if request.param == "root":
        if os.geteuid() != 0:
            pytest.skip("run the tests as root to see what a root hub does")
        found = HubProcess(tmp_path / "hub")
        found.init(two_servers(ROOT / "tests" / "servers"), ["alice", "bob"])
        yield found
        return
    files = ("tests/servers/plain.py",)
    with place_of_a_plain_user(f"hub-{tmp_path.name}", files) as place:
        found = HubProcess(place.home / "hub", place.python, place.env)
        found.init(two_servers(place.root / "tests" / "servers"), ["alice", "bob"])
        yield found


def use(hub: HubProcess) -> dict[tuple[str, str], dict[str, object]]:
    """Have both users call both servers; returns what each instance says of itself."""
    return {
        (user, server): json.loads(hub.call(user, server, "who"))
        for user in hub.keys
        for server in ("quiet", "online")
    }


def test_two_users_of_a_whole_hub_are_apart(hub):
    with hub.serving():
        for user in hub.keys:
            hub.call(user, "quiet", "remember", value=f"of {user}")
            hub.call(user, "quiet", "write", path="/home/u/note", text=f"note of {user}")
        for user in hub.keys:
            assert hub.call(user, "quiet", "recall") == f"of {user}"
            assert hub.call(user, "quiet", "read", path="/home/u/note") == f"note of {user}"
            for hidden in (hub.directory / "hub.db", hub.directory / "keys" / "vault.keys"):
                assert "FileNotFoundError" in hub.call(user, "quiet", "read", path=str(hidden))
        who = use(hub)
        assert all(str(hub.directory) not in json.dumps(told) for told in who.values())
        rows = hub.ask("instances")
        assert len({(row["user"], row["server"]) for row in rows}) == len(rows) == 4
        assert hub.stop() == 0


def test_kill_of_the_hub_leaves_nothing_and_the_next_hub_serves(hub):
    with hub.serving():
        use(hub)
        tree = hub.tree()
        assert len(tree) >= 4 * 3 + 2  # each instance in its sandbox, the gateway, the watchdog
        hub.process.kill()
        hub.process.wait()
        wait_until_gone(tree, 5)
    with hub.serving():
        use(hub)
        assert hub.stop() == 0


def test_term_stops_everything_cleanly_and_no_record_is_lost(hub):
    with hub.serving():
        use(hub)
        tree = hub.tree()
        assert hub.stop(signal.SIGTERM) == 0, hub.log.read_text()
        wait_until_gone(tree, 5)
    assert not (hub.directory / "run" / "hub.sock").exists()
    calls = [(row["user"], row["server"]) for row in hub.ask("requests")]
    assert len(calls) == len(set(calls)) == 4
    assert "Traceback" not in hub.log.read_text()


def test_callers_in_the_middle_of_a_call_are_told_that_the_hub_stops(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init(two_servers(ROOT / "tests" / "servers"), ["alice", "bob"])
    with hub.serving(), ThreadPoolExecutor() as threads:
        use(hub)
        calls = [threads.submit(hub.answer, user, "quiet", "slow", seconds=60) for user in hub.keys]
        deadline = time.monotonic() + 30
        while sum(row["in_flight"] for row in hub.ask("instances")) < 2:
            assert time.monotonic() < deadline
        assert hub.stop() == 0
        for call in calls:
            assert call.result()["error"]["message"].startswith("The hub is stopping.")
    assert "Traceback" not in hub.log.read_text()
    outcomes = [row["outcome"] for row in hub.ask("requests") if row["name"] == "slow"]
    assert len(outcomes) == 2


@pytest.fixture
def root_hub(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({f"s{index}": stubborn() for index in range(10)}, ["alice", "bob"])
    return hub


def test_twenty_servers_that_ignore_everything_are_stopped_together(root_hub):
    with root_hub.serving():
        for user in root_hub.keys:
            for index in range(10):
                assert root_hub.call(user, f"s{index}", "up") == "up"
        tree = root_hub.tree()
        began = time.monotonic()
        assert root_hub.stop(signal.SIGTERM) == 0, root_hub.log.read_text()
        assert time.monotonic() - began < 25  # one after the other it would be minutes
        wait_until_gone(tree, 5)


def test_a_second_ctrl_c_ends_the_waiting_and_loses_no_record(root_hub):
    with root_hub.serving():
        for user in root_hub.keys:
            assert root_hub.call(user, "s0", "up") == "up"
        tree = root_hub.tree()
        began = time.monotonic()
        assert root_hub.stop(signal.SIGINT, signal.SIGINT) == 0, root_hub.log.read_text()
        assert time.monotonic() - began < 5
        wait_until_gone(tree, 5)
    assert len(root_hub.ask("requests")) == 2
    assert "Traceback" not in root_hub.log.read_text()


def test_a_second_hub_in_the_directory_is_refused_and_harms_the_first_in_no_way(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"s0": stubborn()}, ["alice"])
    with hub.serving():
        for _ in range(2):
            second = hub.run("serve", "--port", "0")
            assert second.returncode == 1
            assert "A hub runs in this directory already." in second.stderr
            assert "Traceback" not in second.stderr
        assert hub.call("alice", "s0", "up") == "up"
        assert [row["server"] for row in hub.ask("instances")] == ["s0"]


def test_of_hubs_started_at_the_same_moment_one_serves(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"s0": stubborn()}, ["alice"])
    with ExitStack() as always:
        hubs = [hub.popen("serve", "--port", "0", "--json") for _ in range(3)]
        for process in hubs:
            always.enter_context(process)
            always.callback(process.kill)
        served = [process for process in hubs if process.stdout.readline()]
        assert len(served) == 1, hub.log.read_text()
        assert [process.wait(60) for process in hubs if process not in served] == [1, 1]
        assert isinstance(hub.ask("instances"), list)
        served[0].terminate()
        assert served[0].wait(60) == 0


def test_a_taken_port_is_told_and_the_next_start_works(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({}, ["alice"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = hub.run("serve", "--port", port)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: The hub cannot listen on 127.0.0.1 port {port}")
    assert "--port" in refused.stderr
    with hub.serving():
        assert hub.stop() == 0
