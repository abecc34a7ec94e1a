"""The watch over homes: everyone's turn comes, and all looks together take a bounded time."""

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from mcphub.errors import UpstreamFailed
from mcphub.spawn import homes
from mcphub.spawn.discarding import discard
from mcphub.spawn.homes import HomeWatch, sizes
from mcphub.spawn.instance import Instance, State

pytestmark = pytest.mark.anyio
KIB = 1024


def instance(home: Path, number: int, *, limit: int = 64 * KIB) -> Instance:
    own = home / str(number)
    own.mkdir()
    return Instance(
        f"i_{number}", f"u_{number}", "tools", "", ("s", 1), 600.0, 0.0, 0.0,
        state=State.READY, home=own, home_bytes=limit,
    )  # fmt: skip


def test_looks_end_when_their_time_is_over_and_the_first_is_always_made(tmp_path):
    assert sizes([(tmp_path, None)] * 100, -1.0) == sizes([(tmp_path, None)], 10.0)


async def test_with_more_homes_than_time_each_has_its_turn(tmp_path, monkeypatch):
    looked: list[Path] = []
    monkeypatch.setattr(homes, "_WALKS_S", -1.0)  # time for one home a round
    monkeypatch.setattr(homes, "_used_by", lambda home: looked.append(home) or 0)
    watch = HomeWatch(lambda _: None)
    many = [instance(tmp_path, number) for number in range(5)]
    for now in range(1, 11):
        await watch.look(many, float(now * 100))
    assert sorted(looked[:5]) == sorted(looked[5:]) == sorted(one.home for one in many)


async def test_who_wrote_too_much_is_told_apart_from_all_others(tmp_path):
    over: list[str] = []
    watch = HomeWatch(lambda found: over.append(found.id))
    alice, bob = instance(tmp_path, 1), instance(tmp_path, 2)
    await watch.look([alice, bob], 1.0)
    await asyncio.to_thread((alice.home / "big").write_bytes, b"x" * 256 * KIB)
    alice.last_used = bob.last_used = 2.0
    await watch.look([alice, bob], 4.0)
    assert over == [alice.id]


async def test_what_was_too_much_at_the_start_may_stay_but_not_grow(tmp_path):
    over: list[str] = []
    watch = HomeWatch(lambda found: over.append(found.id))
    alice = instance(tmp_path, 1)
    (alice.home / "old").write_bytes(b"x" * 256 * KIB)
    await watch.look([alice], 1.0)
    await watch.look([alice], 20.0)
    assert over == []
    (alice.home / "new").write_bytes(b"x" * 64 * KIB)
    await watch.look([alice], 90.0)
    assert over == [alice.id]


async def test_a_home_is_looked_at_soon_after_a_call_later_after_that_and_seldom_at_rest(tmp_path):
    looked: list[float] = []
    watch = HomeWatch(lambda _: None)
    one = instance(tmp_path, 1)
    for second in range(200):
        before = watch._looked.get(one.id)
        if second in {100, 101, 102, 103}:
            one.last_used = float(second)
        await watch.look([one], float(second))
        if watch._looked.get(one.id) != before:
            looked.append(second)
    assert {100, 102, 104} <= set(looked)
    assert len([second for second in looked if 104 < second < 134]) == 2
    assert len([second for second in looked if second > 140]) <= 1


def test_what_lies_deeper_than_any_path_counts_too(tmp_path):
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):  # 12,000 characters
        os.mkdir("y" * 200, dir_fd=deep)
        below = os.open("y" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    big = os.open("big", os.O_WRONLY | os.O_CREAT, dir_fd=deep)
    os.write(big, b"x" * 512 * KIB)
    os.close(big)
    os.close(deep)
    assert homes.used_bytes(tmp_path) >= 512 * KIB + 60 * 4096
    discard(tmp_path / ("y" * 200))


def test_a_file_without_content_counts_and_what_is_too_deep_has_no_measure(tmp_path, monkeypatch):
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert homes.used_bytes(tmp_path) == 100 * 4096
    monkeypatch.setattr(homes, "_LONGEST", 1)
    (tmp_path / "/".join(["d"] * 40)).mkdir(parents=True)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert homes.used_bytes(tmp_path) == homes.UNCOUNTABLE
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


async def test_no_number_of_starts_lets_a_home_grow_beyond_its_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(homes, "_MORE", 0)  # twice its limit then
    over: list[str] = []
    watch = HomeWatch(lambda found: over.append(found.id))
    home, most = tmp_path / "1", 64 * KIB
    await watch.admit(home, most, "tools")
    alice = instance(tmp_path, 1)
    starts = 0
    while starts < 3:
        await watch.admit(home, most, "tools")
        alice.id = f"i_{starts}"
        await asyncio.to_thread((home / str(starts)).write_bytes, b"x" * 48 * KIB)
        await watch.look([alice], starts * 100.0)  # it had written before
        starts += 1
    assert over == ["i_1", "i_2"]
    with pytest.raises(UpstreamFailed, match="not started"):
        await watch.admit(home, most, "tools")
    await watch.admit(tmp_path / "bob", most, "tools")
    (home / "0").unlink()
    await watch.admit(home, most, "tools")


HIDES = """
import mmap, os, sys
folder, how = sys.argv[1:]
file = os.open(f"{folder}/x", os.O_RDWR | os.O_CREAT)
os.write(file, b"x" * 256 * 1024)
os.unlink(f"{folder}/x")
if how == "mapped":
    kept = mmap.mmap(file, 4096)
    os.close(file)
if how == "of a child" and os.fork():
    os.close(file)
print("ready", flush=True)
os.read(0, 1)
"""


@contextmanager
def hiding(home: Path, how: str):
    """A process that holds a file without a name."""
    argv = [sys.executable, "-c", HIDES, str(home), how]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.communicate(b"xx")


@pytest.mark.parametrize("how", ["open", "of a child", "mapped"])
async def test_what_has_no_name_counts_as_long_as_it_is_held_and_is_nobody_elses(tmp_path, how):
    if how == "mapped" and os.geteuid():
        pytest.skip("only root may ask for the size of what is mapped")
    over: list[str] = []
    watch = HomeWatch(lambda found: over.append(found.id))
    alice, bob = instance(tmp_path, 1), instance(tmp_path, 2)
    with hiding(alice.home, how) as process:
        alice._process = process
        await watch.look([alice, bob], 1.0)
        assert over == [alice.id]
    alice._process = None
    await watch.look([alice, bob], 100.0)
    assert over == [alice.id]
