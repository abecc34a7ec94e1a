"""A stop has a bound as a whole: whatever never ends, the hub does, with its processes and its records."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.chaos.serving import HubProcess, alive, children_of, wait_until_gone
from tests.unprivileged import ROOT

FOLDER = ROOT / "tests" / "servers"
STOP_S = 6
AFTER_S = 5.5
"""What may come after the limit: records, and the alarm that ends what cannot even log."""
# Holds a process: the kernel tells its parent of its end only when the holder has looked.
HOLDER = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
if libc.ptrace(0x4206, int(sys.argv[1]), None, None):  # PTRACE_SEIZE
    sys.exit(os.strerror(ctypes.get_errno()))
print("holds", flush=True)
sys.stdin.read()
"""


def plain(**more: object) -> dict[str, object]:
    return {
        "command": "/usr/bin/python3",
        "args": [str(FOLDER / "plain.py")],
        "groups": ["everyone"],
        "sandbox": {"readable": [str(FOLDER)], **more},
    }


@pytest.fixture
def hub(tmp_path):
    found = HubProcess(tmp_path / "hub")
    found.init({"quiet": plain(), "online": plain(egress=["host.example"])}, ["alice", "bob"])
    with (found.directory / "mcphub.toml").open("a") as file:
        file.write(f"limits.stop_s = {STOP_S}\n")
    return found


@contextmanager
def held(pid: int):
    """Keep a process from ever counting as ended."""
    argv = [sys.executable, "-c", HOLDER, str(pid)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if not holder.stdout.readline():
            pytest.skip(f"no process may be traced here: {holder.stderr.read().strip()}")
        yield


def overdue(hub: HubProcess) -> tuple[str, list[str]]:
    """The step and what was waited for, of the one line that says it."""
    lines = [line for line in hub.log.read_text().splitlines() if "hub.stop_overdue" in line]
    assert len(lines) == 1, hub.log.read_text()[-3000:]
    told = json.loads(lines[0])
    return told["step"], told["waits_for"]


def used_by_both(hub: HubProcess) -> None:
    for user in hub.keys:
        assert hub.call(user, "quiet", "remember", value=f"of {user}")


def kept(hub: HubProcess) -> None:
    """Both users' calls are on record, the database is whole, and the next hub serves."""
    calls = [row["user"] for row in hub.ask("requests") if row["name"] == "remember"]
    assert sorted(calls) == ["alice", "bob"]
    assert hub.run("audit", "verify").returncode == 0
    with hub.serving():
        assert hub.call("alice", "quiet", "echo", text="again") == "again"
        assert hub.stop() == 0


def test_an_instance_that_never_counts_as_ended_is_named_and_the_hub_ends(hub):
    with hub.serving():
        used_by_both(hub)
        instance = hub.ask("instances")[0]
        tree = hub.tree()
        with held(instance["pid"]):
            os.kill(instance["pid"], signal.SIGKILL)
            used = processor_time_s(hub.process.pid)
            time.sleep(2)
            assert processor_time_s(hub.process.pid) - used < 0.25  # it waits, it does not spin
            began = time.monotonic()
            assert hub.stop(signal.SIGTERM, limit_s=30) == 1
            assert STOP_S <= time.monotonic() - began < STOP_S + AFTER_S
        wait_until_gone(tree, 5)
    step, waits_for = overdue(hub)
    assert step == "instances"
    assert f"instance {instance['id']} of server quiet (process {instance['pid']})" in waits_for
    kept(hub)


def processor_time_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_second_signal_shortens_the_waiting_for_what_never_ends(tmp_path):
    hub = HubProcess(tmp_path / "hub")  # with the limit that hubs have
    hub.init({"quiet": plain()}, ["alice", "bob"])
    with hub.serving():
        used_by_both(hub)
        tree = hub.tree()
        with held(hub.ask("instances")[0]["pid"]):
            began = time.monotonic()
            assert hub.stop(signal.SIGTERM, signal.SIGTERM, limit_s=30) == 1
            assert time.monotonic() - began < 10
        wait_until_gone(tree, 5)
    assert overdue(hub)[0] == "instances"
    kept(hub)


def test_a_third_signal_ends_the_hub_at_once_and_loses_no_record(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"quiet": plain()}, ["alice", "bob"])
    with hub.serving():
        used_by_both(hub)
        tree = hub.tree()
        with held(hub.ask("instances")[0]["pid"]):
            began = time.monotonic()
            assert hub.stop(*[signal.SIGINT] * 3, limit_s=30) == 1
            assert time.monotonic() - began < 5
        wait_until_gone(tree, 5)
    overdue(hub)
    kept(hub)


def test_a_thread_that_waits_for_a_dead_file_is_named_and_the_hub_ends(hub):
    settings = hub.directory / "mcp_settings.json"
    text = settings.read_text()
    with hub.serving():
        used_by_both(hub)
        settings.unlink()
        os.mkfifo(settings)  # opens like a file of a file server that does not answer
        hub.process.send_signal(signal.SIGHUP)
        while "hub.reload" not in hub.log.read_text():
            assert hub.process.poll() is None
        tree = hub.tree()
        began = time.monotonic()
        assert hub.stop(signal.SIGTERM, limit_s=30) == 1
        assert STOP_S <= time.monotonic() - began < STOP_S + AFTER_S
        wait_until_gone(tree, 5)
    assert any(re.match(r"thread .+ in mcphub\.catalog\.", each) for each in overdue(hub)[1])
    settings.unlink()
    settings.write_text(text)
    kept(hub)


def test_an_event_loop_that_stands_still_does_not_hold_the_hub(hub):
    with hub.serving():
        used_by_both(hub)
        hub.call("bob", "online", "who")
        gateway = next(pid for pid in hub.tree() if b"egress.gateway" in command_of(pid))
        tree = hub.tree()
        with held(gateway):  # the loop waits for its end, in the middle of a step
            began = time.monotonic()
            assert hub.stop(signal.SIGTERM, limit_s=30) == 1
            assert STOP_S <= time.monotonic() - began < STOP_S + AFTER_S
        wait_until_gone(tree, 5)
    step, waits_for = overdue(hub)
    assert step == "sandbox"
    assert "thread MainThread in mcphub.spawn.egress.client.close" in waits_for
    kept(hub)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_log_that_is_not_read_holds_up_nobody(hub, tmp_path):
    unread, log = os.pipe()
    argv = [sys.executable, "-c", "import sys; from mcphub.cli import main; sys.exit(main())"]
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "src"),
        "MCPHUB_DIR": str(hub.directory),
    }
    ready = tmp_path / "ready.json"
    words = ["serve", "--port", "0", "--ready-file", str(ready)]
    with subprocess.Popen([*argv, *words], env=env, cwd="/", stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=log) as process:  # fmt: skip
        try:
            while not ready.exists():
                assert process.poll() is None
            hub.url = json.loads(ready.read_text())["url"]
            used_by_both(hub)
            tree = children_of(process.pid)
            fill(log)
            for number in range(3):
                process.send_signal(signal.SIGHUP)  # is logged
                for user in hub.keys:
                    assert hub.call(user, "quiet", "echo", text=f"{number}") == f"{number}"
            empty(unread)
            process.send_signal(signal.SIGHUP)
            assert lines_lost(unread) >= 3
            fill(log)
            process.terminate()
            assert process.wait(STOP_S + AFTER_S) == 0
            wait_until_gone(tree, 5)
        finally:
            process.kill()
            os.close(log)
            os.close(unread)
    kept(hub)


def fill(pipe: int) -> None:
    """Take all the room that a pipe has."""
    os.set_blocking(pipe, False)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe, b"x" * size)
    os.set_blocking(pipe, True)


def empty(pipe: int) -> None:
    """Read all that is in a pipe."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(pipe, 65536):
            pass
    os.set_blocking(pipe, True)


def lines_lost(pipe: int) -> int:
    """Return how many lines the log says that it left out."""
    with open(pipe, "rb", closefd=False) as lines:
        for line in lines:
            if line.startswith(b"{") and json.loads(line)["event"] == "log.lines_lost":
                return json.loads(line)["count"]
    raise AssertionError("the log ended")


def test_clients_that_keep_a_stream_or_do_not_read_their_answer_do_not_hold_the_stop(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"quiet": plain()}, ["alice", "bob"])
    with hub.serving():
        used_by_both(hub)
        with stream(hub, "alice"), unread_answer(hub, "bob"):
            began = time.monotonic()
            assert hub.stop(signal.SIGTERM, limit_s=60) == 0, hub.log.read_text()[-3000:]
            assert time.monotonic() - began < 20
    assert "hub.stop_overdue" not in hub.log.read_text()
    kept(hub)


@contextmanager
def asked(hub: HubProcess, user: str, method: str, body: bytes = b"", **headers: str):
    """Send a request; gives the connection when its answer has begun."""
    host, _, port = hub.url.removeprefix("http://").rpartition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect((host, int(port)))
        lines = [
            f"{method} /mcp/quiet HTTP/1.1",
            f"Host: {host}:{port}",
            f"Authorization: Bearer {hub.keys[user]}",
            "Accept: application/json, text/event-stream",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        assert connection.recv(12) == b"HTTP/1.1 200"
        yield connection


def message(method: str, **params: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def session_of(hub: HubProcess, user: str) -> str:
    """Open a session; returns its id."""
    client = {"name": "still", "version": "1"}
    hello = message("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
    with asked(hub, user, "POST", hello) as connection:
        head = connection.recv(4096)
    found = re.search(rb"(?i)mcp-session-id: (\S+)", head)
    assert found, head
    return found[1].decode()


@contextmanager
def stream(hub: HubProcess, user: str):
    """Keep the stream of notifications of a session open."""
    with asked(hub, user, "GET", Mcp_Session_Id=session_of(hub, user)):
        yield


@contextmanager
def unread_answer(hub: HubProcess, user: str):
    """Ask for an answer that fits into no buffer, and read its first bytes only."""
    call = message("tools/call", name="echo", arguments={"text": "x" * (12 << 20)})
    with asked(hub, user, "POST", call, Mcp_Session_Id=session_of(hub, user)):
        yield


def test_a_hub_that_stops_in_time_ends_well_and_says_nothing_of_the_limit(hub):
    with hub.serving():
        used_by_both(hub)
        pids = hub.tree()
        assert hub.stop(signal.SIGTERM) == 0
        assert not [pid for pid in pids if alive(pid)]
    assert "hub.stop_overdue" not in hub.log.read_text()
    kept(hub)
