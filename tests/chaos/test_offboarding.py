"""Off-boarding one of two users at a running hub: all that is the user's ends, and nothing of the other's."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from tests.chaos.serving import HubProcess, alive
from tests.unprivileged import ROOT

from mcphub.offboarding import shred

FOLDER = ROOT / "tests" / "servers"
SECRET = "the-value-that-must-go-away-4711"


@pytest.fixture
def hub(tmp_path):
    found = HubProcess(tmp_path / "hub")
    spec = {
        "command": "/usr/bin/python3",
        "args": [str(FOLDER / "plain.py")],
        "env": {"TOKEN": "${USER_TOKEN}"},
        "groups": ["everyone"],
        "sandbox": {"readable": [str(FOLDER)]},
    }
    found.init({"plain": spec}, ["alice", "bob"])
    for user in ("alice", "bob"):
        words = ("credential", "set", "plain", "TOKEN", "--user", user)
        done = found.run(*words, stdin=f"{SECRET}-{user}")
        assert done.returncode == 0, done.stderr
    return found


def use(hub: HubProcess) -> None:
    for user in ("alice", "bob"):
        told = json.loads(hub.call(user, "plain", "who"))
        assert told["env"]["TOKEN"] == f"{SECRET}-{user}"
        hub.call(user, "plain", "write", path="/home/u/note", text=f"note of {user}")


def events(hub: HubProcess) -> dict[str, dict]:
    return {event["action"]: event for event in hub.ask("audit", "list")}


def test_a_removed_user_is_gone_at_once_and_the_audit_log_proves_it(hub):
    alice = next(user["id"] for user in hub.ask("user", "list") if user["name"] == "alice")
    with hub.serving():
        use(hub)
        pids = {row["user"]: row["pid"] for row in hub.ask("instances")}
        told = hub.ask("user", "remove", "alice", "--yes")
        assert (told["stopped_instances"], told["keys"], told["credentials"]) == (1, 1, 1)
        assert told["files"] >= 1
        assert not alive(pids["alice"])
        assert alive(pids["bob"])
        use_of_bob = json.loads(hub.call("bob", "plain", "who"))
        assert use_of_bob["env"]["TOKEN"] == f"{SECRET}-bob"
        assert hub.call("bob", "plain", "read", path="/home/u/note") == "note of bob"
        assert [
            path.name for path in (hub.directory / "homes").iterdir() if path.name == alice
        ] == []
        removed = events(hub)["user:removed"]
        assert removed["subject"] == alice
        assert removed["detail"]["credentials"] == "1"
        assert removed["detail"]["stopped_instances"] == "1"
    assert hub.run("audit", "verify").returncode == 0
    assert SECRET.encode() not in b"".join(
        path.read_bytes()
        for path in hub.directory.rglob("*")
        if path.is_file() and path.stat().st_size < 10**8 and "homes" not in path.parts
    )


def test_a_disabled_user_loses_everything_but_what_enable_gives_back(hub):
    with hub.serving():
        use(hub)
        assert hub.ask("user", "disable", "alice")["stopped_instances"] == 1
        assert [row["user"] for row in hub.ask("instances")] == ["bob"]
        with pytest.raises(AssertionError):
            hub.call("alice", "plain", "who")
        hub.ask("user", "enable", "alice")
        use(hub)


def test_a_removal_after_a_grace_is_done_by_the_hub_and_can_be_undone_before(hub):
    with hub.serving():
        use(hub)
        told = hub.ask("user", "remove", "alice", "--after", "30d", "--yes")
        assert told["disabled"]
        assert told["remove_at"] > 0
        assert (hub.directory / "homes" / told["id"]).is_dir()
        hub.ask("user", "enable", "alice")
        use(hub)
        hub.ask("user", "remove", "alice", "--after", "2026-01-02", "--yes")
        deadline = time.monotonic() + 90
        while any(user["name"] == "alice" for user in hub.ask("user", "list")):
            assert time.monotonic() < deadline, hub.log.read_text()[-2000:]
        assert not (hub.directory / "homes" / told["id"]).exists()
        removed = events(hub)["user:removed"]
        assert (removed["actor"], removed["subject"]) == ("hub", told["id"])
        assert hub.call("bob", "plain", "read", path="/home/u/note") == "note of bob"


def test_shredding_follows_no_link_and_leaves_other_names_of_a_file_alone(tmp_path):
    outside, home = tmp_path / "outside", tmp_path / "home"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (home / "deep" / "er").mkdir(parents=True)
    (home / "deep" / "er" / "file").write_text("gone")
    (home / "deep" / "closed").mkdir(mode=0)
    (home / "folder").symlink_to(outside)
    (home / "link").symlink_to(outside / "kept")
    (home / "name").hardlink_to(outside / "kept")
    (home / "read-only").write_text("gone")
    (home / "read-only").chmod(0o400)
    assert shred(home) == 5
    assert not home.exists()
    assert (outside / "kept").read_text() == "kept"
    assert shred(tmp_path / "never") == 0


def test_directories_in_directories_without_end_are_shredded(tmp_path):
    home, kept = tmp_path / "home", []
    home.mkdir()
    for branch in range(2):
        deep = os.open(home, os.O_RDONLY)
        for level in range(1500):  # no path and no stack reaches as far
            name = f"{branch}{'y' * 100}"
            os.mkdir(name, dir_fd=deep)
            below = os.open(name, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
            if level % 100 == 50:
                note = os.open("note", os.O_RDWR | os.O_CREAT, dir_fd=deep)
                os.write(note, b"private")
                kept.append(note)
        os.close(deep)
    assert shred(home) == len(kept) == 30
    assert not home.exists()
    assert {os.pread(note, 100, 0) for note in kept} == {bytes(7)}
    for note in kept:
        os.close(note)


def test_what_is_shredded_was_overwritten_first(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "note").write_text("private " * 1000)
    with (home / "note").open("rb") as kept:  # what a second look at the blocks would find
        assert shred(home) == 1
        left = kept.read()
    assert set(left) == {0}
    assert len(left) == 8000


def test_the_holes_of_a_file_are_left_as_they_are(tmp_path):
    """A server makes a thousand terabytes of holes in a second: to fill them takes days, and what is free."""
    home, kept = tmp_path / "home", []
    home.mkdir()
    for number in range(8):
        with (home / str(number)).open("wb") as file:
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(b"private " * 1000)
        kept.append((home / str(number)).open("rb"))
    before = [os.fstat(file.fileno()).st_blocks for file in kept]
    assert shred(home) == 8
    assert [os.fstat(file.fileno()).st_blocks for file in kept] == before
    for file in kept:
        file.seek(1 << 39)
        assert file.read(8000) == bytes(8000)
        file.close()


def test_whatever_lies_in_a_home_is_gone_afterwards(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    os.mkfifo(home / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "socket"))
        listening.listen()
    (home / "closed").mkdir(mode=0)
    (home / "to nothing").symlink_to("/nowhere")
    (home / "to itself").symlink_to("to itself")
    for name in (b"line\nbreak", b"\xff\xfe", b"-rf", b"x" * 255):
        Path(os.fsdecode(bytes(home) + b"/" + name)).write_bytes(name)
    assert shred(home) == 8
    assert not home.exists()
