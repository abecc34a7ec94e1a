"""One user's instance runs wild: its user is told why in plain words, and the other user notices nothing."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.chaos.serving import MODERN, HubProcess
from tests.unprivileged import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: hard limits are control groups"),
]
FOLDER = ROOT / "tests" / "servers"
CALLS = 25
SLOWEST_S = 5.0
"""What a call of the other user may take at worst, on a busy machine; alone it takes some milliseconds."""


def spec(*args: str, timeout_s: float = 60, **sandbox: object) -> dict[str, object]:
    return {
        "command": "/usr/bin/python3",
        "args": [str(FOLDER / "wild.py"), *args],
        "groups": ["everyone"],
        "timeoutSeconds": timeout_s,
        "sandbox": {
            "readable": [str(FOLDER)],
            "memoryMb": 64,
            "pids": 30,
            "homeMb": 16,
            "tmpMb": 8,
            **sandbox,
        },
    }


SERVERS = {
    "wild": spec(),
    "hanging": spec(timeout_s=3),
    "slow": spec("--slow"),
    "paused": spec(idleSeconds=1, whenIdle="pause"),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    found = HubProcess(tmp_path_factory.mktemp("wild") / "hub")
    found.init(SERVERS, ["alice", "bob"])
    with found.serving():
        yield found


def told(answer: dict) -> str:
    """What alice reads, be it an error or a tool's words."""
    if "error" in answer:
        return answer["error"]["message"]
    return answer["result"]["content"][0]["text"]


def bob_is_well(hub: HubProcess, server: str = "wild") -> None:
    for _ in range(CALLS):
        began = time.monotonic()
        assert hub.call("bob", server, "echo") == "still here"
        assert time.monotonic() - began < SLOWEST_S


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("hog", "more than the 64 MiB of memory"),
        ("bomb", "made"),
        ("fill_home", "files take more than the 16 MiB"),
        ("fill_without_names", "files take more than the 16 MiB"),
        ("big_file", "File too large"),
        ("fill_tmp", "No space left on device"),
        ("flood_stdout", "flooded"),
        ("flood_stderr", "flooded"),
        ("endless_line", "over the size limit"),
        ("crash", "exit status 3"),
    ],
)
def test_what_one_instance_does_is_told_to_its_user_and_to_nobody_else(hub, tool, words):
    bob_is_well(hub)
    with ThreadPoolExecutor() as threads:
        wild = threads.submit(hub.answer, "alice", "wild", tool)
        bob_is_well(hub)
        assert words in told(wild.result())
    bob_is_well(hub)
    # alice goes on too, with what is left or with a new instance
    if tool in {"fill_home", "big_file"}:
        assert told(hub.answer("alice", "wild", "clean_up")) == "clean"
    for _ in range(100):
        answer = hub.answer("alice", "wild", "echo")
        if "error" not in answer:
            break
        time.sleep(answer["error"]["data"].get("retryAfterSeconds", 0.2))
    assert told(answer) == "still here"


def test_a_server_that_hangs_is_given_up_and_the_next_call_works(hub):
    bob_is_well(hub, "hanging")
    with ThreadPoolExecutor() as threads:
        wild = threads.submit(hub.answer, "alice", "hanging", "hang")
        bob_is_well(hub, "hanging")
        assert "did not answer tools/call within 3 s" in told(wild.result())


def test_a_crash_loop_is_slowed_down_for_its_user_only(hub):
    said = ""
    for _ in range(20):
        said = told(hub.answer("alice", "wild", "crash"))
        bob_is_well(hub) if "in a row" in said else None
        if "in a row" in said:
            break
    assert "the hub waits before it starts it again" in said


def progress(hub: HubProcess, user: str, server: str) -> tuple[list[dict], dict]:
    """Call `echo` with a progress token; returns what came before the answer, and the answer."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": "p-1",
    }
    answer = httpx2.post(
        f"{hub.url}/mcp/{server}",
        timeout=60,
        trust_env=False,
        headers={
            "Authorization": f"Bearer {hub.keys[user]}",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": MODERN,
            "Mcp-Method": "tools/call",
            "Mcp-Name": "echo",
        },
        json={
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {}, "_meta": meta},
        },
    )
    if "event-stream" not in answer.headers["content-type"]:
        return [], answer.json()
    lines = [line[5:] for line in answer.text.splitlines() if line.startswith("data:")]
    *before, last = [json.loads(line) for line in lines if line.strip()]
    return before, last


def test_a_start_that_takes_long_is_told_as_progress(hub):
    before, last = progress(hub, "alice", "slow")
    assert told(last) == "still here"
    assert before
    assert {one["method"] for one in before} == {"notifications/progress"}
    assert {one["params"]["progressToken"] for one in before} == {"p-1"}
    steps = [one["params"]["progress"] for one in before]
    assert steps == sorted(set(steps))
    assert before[0]["params"]["message"] == "Starting slow…"
    assert progress(hub, "alice", "slow")[0] == []  # it runs: nothing to tell


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_an_idle_instance_is_paused_with_its_memory_where_the_settings_say_so(hub):
    for user in ("alice", "bob"):
        assert hub.call(user, "paused", "echo") == "still here"
    rows = {}
    deadline = time.monotonic() + 20
    while set(rows.values()) != {"paused"}:
        assert time.monotonic() < deadline, rows
        rows = {
            row["pid"]: row["state"] for row in hub.ask("instances") if row["server"] == "paused"
        }
    from tests.chaos.serving import children_of

    inside = {pid for outer in rows for pid in children_of(outer)}
    assert all(map(stopped, inside))
    assert hub.call("alice", "paused", "echo") == "still here"
    again = {row["pid"]: row for row in hub.ask("instances") if row["server"] == "paused"}
    assert set(again) == set(rows)  # the same processes
    assert max(row["calls"] for row in again.values()) == 2
