"""Faults of the hub itself: killed while it writes, a full disk, many users at start, a reload by signal."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.chaos.serving import HubProcess, wait_until_gone
from tests.unprivileged import ROOT

FOLDER = ROOT / "tests" / "servers"
USERS, SERVERS = 5_000, 50
FIRST_CALL_S = 3.0
"""Processor time of a restarted hub until its first call is answered. Not time on the clock: tests share
the machine with others, and what is looked for is work that grows with the users."""


def plain(**more: object) -> dict[str, object]:
    return {
        "command": "/usr/bin/python3",
        "args": [str(FOLDER / "plain.py")],
        "groups": ["everyone"],
        "sandbox": {"readable": [str(FOLDER)]},
        **more,
    }


# Writes users, credentials and audit events in turn; says each one that was acknowledged.
WRITER = """
import asyncio, sys
from pathlib import Path
from mcphub.audit import log
from mcphub.ground import ground
from mcphub.settings import load

async def main():
    settings = load(Path(sys.argv[1]), environ={})
    async with ground(settings) as services:
        for number in range(int(sys.argv[2]), 1_000_000):
            user = await services.directory.add_user(f"user{number}")
            await services.audit.write("test", log.USER_CREATED, user.id, {"name": user.name})
            key = await services.directory.create_key(user.id)
            print(user.name, user.id, key.info.id, flush=True)

asyncio.run(main())
"""


def test_whatever_was_acknowledged_survives_a_kill_at_any_moment(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({}, [])
    acknowledged: list[tuple[str, str, str]] = []
    for round_ in range(12):
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
        argv = [sys.executable, "-c", WRITER, str(hub.directory), str(round_ * 10_000)]
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(1 + round_ % 5)]
            time.sleep(0.0007 * round_)  # somewhere in the middle of the next write
            writer.kill()
            lines += writer.stdout.readlines()
        acknowledged += [tuple(line.split()) for line in lines if line.endswith("\n")]
        with sqlite3.connect(hub.directory / "hub.db") as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            users = dict(db.execute("SELECT name, id FROM users").fetchall())
            keys = {row[0] for row in db.execute("SELECT id FROM api_keys")}
        assert {name: users.get(name) for name, _, _ in acknowledged} == {
            name: user for name, user, _ in acknowledged
        }
        assert {key for _, _, key in acknowledged} <= keys
        assert hub.run("audit", "verify").returncode == 0
    assert len(acknowledged) >= 12


def test_a_hub_with_many_users_and_servers_serves_its_first_call_soon(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({f"s{number}": plain() for number in range(SERVERS)}, ["alice", "bob"])
    with sqlite3.connect(hub.directory / "hub.db") as db:
        db.executemany(
            "INSERT INTO users (id, name, number, role, created_at) VALUES (?, ?, ?, 'user', 0)",
            [(f"u_known{n}", f"known {n}", 1_000 + n) for n in range(USERS)],
        )
        db.executemany(
            "INSERT INTO api_keys (id, user_id, prefix, hash, label, created_at) VALUES (?, ?, ?, ?, '', 0)",
            [(f"k_known{n}", f"u_known{n}", f"mcphub_{n:05}", f"{n:064x}") for n in range(USERS)],
        )
    with hub.serving():
        assert hub.call("alice", "s0", "echo", text="before") == "before"
        hub.process.kill()
        hub.process.wait()
    with hub.serving():
        assert hub.call("bob", "s7", "echo", text="first") == "first"
        used = processor_time_s(hub.process.pid)
        assert used < FIRST_CALL_S, used
        assert hub.stop() == 0


def processor_time_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_hup_takes_a_new_settings_file_and_keeps_the_calls_that_run(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"quiet": plain()}, ["alice", "bob"])
    with hub.serving(), ThreadPoolExecutor() as threads:
        hub.call("alice", "quiet", "remember", value="kept")
        slow = threads.submit(hub.call, "alice", "quiet", "slow", seconds=3)
        servers = {"mcpServers": {"quiet": plain(), "new": plain()}}
        (hub.directory / "mcp_settings.json").write_text(json.dumps(servers))
        hub.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while "error" in hub.answer("bob", "new", "echo", text="x"):
            assert time.monotonic() < deadline, hub.log.read_text()[-2000:]
        assert slow.result() == "slept"
        assert hub.call("alice", "quiet", "recall") == "kept"
        (hub.directory / "mcp_settings.json").write_text("{ broken")
        hub.process.send_signal(signal.SIGHUP)
        assert hub.call("bob", "new", "echo", text="still") == "still"
        assert hub.process.poll() is None
        assert hub.stop() == 0
    assert hub.log.read_text().count("hub.reload") == 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the small disk is a mount")
def test_a_full_disk_gives_clear_errors_and_loses_nothing_acknowledged(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "small", disk], check=True)
    try:
        hub = HubProcess(disk / "hub")
        hub.log = tmp_path / "hub.log"
        own = plain(env={"T": "${USER_T}"})
        hub.init({"quiet": plain(), "own": own}, ["alice", "bob"])
        with hub.serving():
            hub.call("alice", "quiet", "remember", value="before")
            fill(disk / "filler")
            # what shows only when all is to be written down is a sentence too
            for _ in range(400):
                told = httpx2.put(
                    f"{hub.url}/api/me/credentials/own/T",
                    json={"value": "v" * 60_000},
                    headers={"Authorization": f"Bearer {hub.keys['bob']}"},
                    trust_env=False,
                )
                if told.status_code != 204:
                    break
                fill(disk / "filler")
            assert told.status_code == 503, told.text
            assert told.json()["code"] == "unavailable"
            # what runs goes on, for both; what must be stored is refused in a sentence
            assert hub.call("alice", "quiet", "recall") == "before"
            added: list[str] = []
            refused = ""
            for number in range(400):
                done = hub.run("user", "add", f"late{number}", "--json")
                if done.returncode:
                    refused = done.stderr
                    break
                added.append(f"late{number}")
            assert refused
            error = json.loads(refused.splitlines()[0])
            assert error["message"]
            assert error["hint"]
            assert "Traceback" not in refused
            assert hub.call("alice", "quiet", "recall") == "before"
            (disk / "filler").unlink()
            assert hub.run("user", "add", "after").returncode == 0
            names = {user["name"] for user in hub.ask("user", "list")}
            assert {"alice", "bob", "after", *added} <= names
            assert hub.call("bob", "quiet", "echo", text="well") == "well"
            assert hub.run("audit", "verify").returncode == 0
            assert hub.stop() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(path: Path) -> None:
    """Take all the space there is."""
    with path.open("ab", 0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_log_that_cannot_be_written_is_no_error_of_anything_else(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init({"plain": plain()}, ["alice", "bob"])
    hub.log = Path("/dev/full")
    with hub.serving():
        for user in ("alice", "bob"):
            assert hub.call(user, "plain", "echo", text=user) == user
        assert "ended unexpectedly" in json.dumps(hub.answer("alice", "plain", "crash"))
        assert hub.call("alice", "plain", "echo", text="again") == "again"
        # something to be told by the look after changes, which must go on
        (hub.directory / "keys" / "context.keys").write_text("nothing")
        (hub.directory / "mcp_settings.json").write_text("{")
        time.sleep(2)
        sockets = hub.directory / "run"
        (sockets / "hub.sock").rename(sockets / "away")  # the command tells the hub nothing
        assert hub.run("key", "revoke", hub.keys["alice"][:12]).returncode == 0
        (sockets / "away").rename(sockets / "hub.sock")
        until = time.monotonic() + 20
        while "result" in (told := hub.answer("alice", "plain", "echo", text="more")):
            assert time.monotonic() < until
            time.sleep(0.1)
        assert told["error"]["data"]["code"] == "unauthenticated"
        assert hub.call("bob", "plain", "echo", text="bob") == "bob"
        assert hub.stop() == 0


@pytest.mark.parametrize("way", ["replaced", "gone"])
def test_a_hub_whose_database_file_is_another_one_ends_before_a_revocation_goes_unheard(
    tmp_path, way
):
    """A backup is put in its place while the hub runs: commands change a file that the hub has never opened."""
    hub = HubProcess(tmp_path / "hub")
    hub.init({"quiet": plain()}, ["alice", "bob"])
    copy = tmp_path / "copy.db"
    with sqlite3.connect(hub.directory / "hub.db") as db:
        db.execute("VACUUM INTO ?", [str(copy)])
    copy.chmod(0o600)
    with hub.serving():
        for user in hub.keys:
            hub.call(user, "quiet", "remember", value=f"of {user}")
        tree = hub.tree()
        for end in ("-wal", "-shm"):
            (hub.directory / f"hub.db{end}").unlink(missing_ok=True)
        if way == "replaced":
            copy.rename(hub.directory / "hub.db")
            assert hub.run("user", "disable", "alice").returncode == 0
        else:
            (hub.directory / "hub.db").unlink()
        assert hub.process.wait(30) == 1
        wait_until_gone(tree, 5)
        assert "hub.cannot_go_on" in hub.log.read_text()
    if way == "replaced":
        with hub.serving():
            assert "result" in hub.answer("bob", "quiet", "recall")
            assert "result" not in hub.answer("alice", "quiet", "recall")
