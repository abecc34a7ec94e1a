"""A zygote holds nothing of any user, and its failure, age or absence harms nobody."""

import asyncio
import os
import signal
from pathlib import Path

import anyio
import pytest
from tests.forked import PRELOAD, ForkingSpawner
from tests.memory import holds
from tests.polling import until

from mcphub.ids import instance_id
from mcphub.spawn.process import children
from mcphub.spawn.sandboxed import SandboxSettings
from mcphub.spawn.spawner import Launch, Preload
from mcphub.spawn.zygote import spawner as zygote_spawner
from mcphub.spawn.zygote import zygote as zygotes
from mcphub.vault.secret import Secret

pytestmark = pytest.mark.anyio
PYTHON = PRELOAD.python
ALICE, BOB = "canary-of-alice-5502", "canary-of-bob-9071"
WAITS = "import os, sys; print('up', flush=True); sys.stdin.read()"
# What a careless zygote would do: receive what the child is told, and fork then.
CARELESS = """
import socket
from mcphub.spawn.zygote import child
kept = []
fork, receive = parent._fork, child.receive
def careless(nest, fd):
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.send(b'hello')
        got = receive(sock, 64, 8)
    with open(f'/proc/self/fd/{got[1][3]}', 'rb') as file:
        kept.append(file.read())
    child.receive = lambda *_: got
    fork(nest, fd)
    for each in got[1]:
        os.close(each)
parent._fork = careless
"""


@pytest.fixture
async def spawner(tmp_path):
    async with ForkingSpawner(SandboxSettings(tmp_path / "run")) as found:
        assert found.level, found.problem
        yield found


def tree(pid: int) -> set[int]:
    found = {pid}
    for child in children(pid):
        found |= tree(child)
    return found


def parents_of(spawner: ForkingSpawner, *instances) -> set[int]:
    """Every process that a zygote consists of, and the one that prepares for it."""
    found = set()
    for zygote in spawner.zygotes.zygotes():
        found |= tree(zygote.pid)
    for instance in instances:
        found -= tree(instance.pid)
    return found | {spawner.zygotes.preparer.pid}


async def started(spawner, tmp_path, number: int, canary: str, code: str = WAITS):
    launch = Launch(
        instance_id(),
        f"u_{number}",
        number,
        (PYTHON, "-c", code, Secret(f"argument-{canary}")),
        tmp_path / f"home{number}",
        env={"TOKEN": Secret(canary)},
    )
    process = await spawner.start(launch)
    with anyio.fail_after(30):
        await anyio.wait_readable(process.stdout)
    return process


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: reads the memory of other processes")
async def test_no_byte_of_a_user_is_in_any_parent_after_many_starts(spawner, tmp_path):
    for _ in range(15):
        for number, canary in ((16, ALICE), (17, BOB)):
            process = await started(spawner, tmp_path, number, canary)
            await process.stop(0)
    alice = await started(spawner, tmp_path, 16, ALICE)
    bob = await started(spawner, tmp_path, 17, BOB)
    parents = parents_of(spawner, alice, bob)
    assert len(parents) >= 4
    assert {pid: found for pid in parents if (found := holds(pid, ALICE, BOB))} == {}
    # the same look finds what is there
    assert holds(alice.pid, ALICE, BOB) == {ALICE}
    assert holds(bob.pid, ALICE, BOB) == {BOB}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: reads the memory of other processes")
async def test_a_zygote_that_receives_for_its_children_would_be_found(tmp_path, monkeypatch):
    head, serve = zygotes._BOOT.split("main(int")
    head = head.replace(
        "import main;", "import main; from mcphub.spawn.zygote import parent; import os;"
    )
    boot = f"{head}\nexec({CARELESS!r})\nmain(int{serve}"
    monkeypatch.setattr(zygotes, "_BOOT", boot)
    async with ForkingSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        alice = await started(spawner, tmp_path, 16, ALICE)
        bob = await started(spawner, tmp_path, 17, BOB)
        found = set()
        for pid in parents_of(spawner, alice, bob):
            found |= holds(pid, ALICE, BOB)
        assert found == {ALICE, BOB}


async def test_a_credential_is_not_in_what_proc_shows_of_an_instance(spawner, tmp_path):
    alice = await started(spawner, tmp_path, 16, ALICE)
    for name in ("environ", "cmdline"):
        shown = Path(f"/proc/{alice.pid}/{name}").read_bytes()  # noqa: ASYNC240
        assert ALICE.encode() not in shown


async def test_the_ends_of_starts_that_were_given_up_are_not_kept(spawner, tmp_path):
    alice = await started(spawner, tmp_path, 16, ALICE)
    (zygote,) = spawner.zygotes.zygotes()
    given_up = zygote.forks + 20
    while zygote.forks < given_up:
        async with anyio.create_task_group() as group:
            before = zygote.forks
            group.start_soon(started, spawner, tmp_path, 17, BOB)
            await until(lambda before=before: zygote.forks > before)
            group.cancel_scope.cancel()
    await until(lambda: len(children(zygote.pid)) <= 1)
    bob = await started(spawner, tmp_path, 17, BOB)  # its zygote has told all ends before
    assert zygote.early == 0
    # and those of instances are told
    for process in (alice, bob):
        os.kill(process.pid, signal.SIGKILL)
        with anyio.fail_after(30):
            await process.exited


async def test_children_of_one_zygote_draw_different_random_numbers(spawner, tmp_path):
    code = (
        "import os, random, sys, uuid; print(random.random(), uuid.uuid4(), os.urandom(4).hex(),"
        " flush=True); sys.stdin.read()"
    )
    drawn = set()
    for number in (16, 17):
        process = await started(spawner, tmp_path, number, ALICE, code)
        drawn |= set(os.read(process.stdout, 1000).split())
    assert len(drawn) == 6


async def test_a_zygote_that_cannot_import_costs_a_start_nothing_but_time(tmp_path):
    missing = Preload(PYTHON, ("there_is_no_such_module",))
    async with ForkingSpawner(SandboxSettings(tmp_path / "run"), missing) as spawner:
        launch = Launch(
            instance_id(), "u_16", 16, (PYTHON, "-c", WAITS), tmp_path / "h", preload=missing
        )
        process = await spawner.zygotes.start(launch)
        with anyio.fail_after(30):
            await anyio.wait_readable(process.stdout)
        assert os.read(process.stdout, 10) == b"up\n"
        assert process not in spawner.zygotes.processes()


async def started_with(tmp_path, module, then):
    """Start a program whose zygote imports a module with this text; `then` gets the spawner and the process."""
    # `sys.path` of an interpreter with this environment holds the package
    venv = tmp_path / "venv"
    done = await anyio.run_process([PYTHON, "-I", "-m", "venv", "--without-pip", str(venv)])
    assert done.returncode == 0
    (site,) = venv.glob("lib/python3*/site-packages")
    (site / "told.py").write_text(module)
    preload = Preload(str(venv / "bin" / "python"), ("told",))
    async with ForkingSpawner(SandboxSettings(tmp_path / "run"), preload) as spawner:
        launch = Launch(
            instance_id(),
            "u_16",
            16,
            (preload.python, "-c", WAITS),
            tmp_path / "h",
            readable=(venv,),
            preload=preload,
        )
        await then(spawner, await spawner.zygotes.start(launch))


async def went_another_way(spawner, process):
    assert process not in spawner.zygotes.processes()
    await until(lambda: spawner.zygotes.zygotes() == [])


async def test_an_import_that_leaves_a_thread_is_not_forked(tmp_path):
    """A lock that another thread holds would be held for ever in every child."""
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    await started_with(tmp_path, thread, went_another_way)


@pytest.mark.parametrize(
    "words", [b"[" * 60_000, b"no", b"{}", b'{"op":"ended","pid":[],"status":0}']
)
async def test_a_module_that_speaks_for_its_zygote_ends_it_and_nothing_else(tmp_path, words):
    """It could: it runs in it. What the hub cannot read must cost it no more than the zygote."""
    lies = f"""
import os, socket, stat
for fd in range(3, 4096):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.send({words!r})
    except OSError:
        pass
"""
    failed = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failed.append(context))
    await started_with(tmp_path, lies, went_another_way)
    assert failed == []


async def test_a_module_whose_code_was_read_early_runs_in_each_instance_with_its_own_environment(
    tmp_path,
):
    venv = tmp_path / "venv"
    done = await anyio.run_process([PYTHON, "-I", "-m", "venv", "--without-pip", str(venv)])
    assert done.returncode == 0
    (site,) = venv.glob("lib/python3*/site-packages")
    (site / "keeper.py").write_text("import os; kept = dict(os.environ)['TOKEN']")
    preload = Preload(str(venv / "bin" / "python"), ("json",), ("keeper",))
    waits = "import keeper, sys; print(keeper.kept, flush=True); sys.stdin.read()"
    async with ForkingSpawner(SandboxSettings(tmp_path / "run"), preload) as spawner:
        said = []
        for number, canary in ((16, ALICE), (17, BOB)):
            launch = Launch(
                instance_id(),
                f"u_{number}",
                number,
                (preload.python, "-c", waits),
                tmp_path / f"h{number}",
                env={"TOKEN": Secret(canary)},
                readable=(venv,),
            )
            process = await spawner.start(launch)
            with anyio.fail_after(30):
                await anyio.wait_readable(process.stdout)
            said.append(os.read(process.stdout, 100).decode().strip())
        assert said == [ALICE, BOB]


async def test_a_worn_zygote_is_replaced_and_its_instances_live_on(spawner, tmp_path):
    alice = await started(spawner, tmp_path, 16, ALICE)
    (old,) = spawner.zygotes.zygotes()
    old.forks = 1_000_000
    bob = await started(spawner, tmp_path, 17, BOB)
    assert len(spawner.zygotes.zygotes()) == 2
    assert not alice.exited.done()
    assert not bob.exited.done()
    await alice.stop(0)
    assert old.children == {}


@pytest.mark.root
async def test_a_zygote_is_replaced_before_what_it_is_charged_for_its_children_ends_them_all(
    spawner, tmp_path, monkeypatch
):
    if "memory" not in spawner.plain.controllers:
        pytest.skip("no memory is limited here")
    first = await started(spawner, tmp_path, 16, ALICE)
    (old,) = spawner.zygotes.zygotes()
    # room for a few children, and a limit that a few more would reach
    monkeypatch.setattr(zygote_spawner, "_WORN_BYTES", old.group.memory_bytes + 3 * 1024 * 1024)
    monkeypatch.setattr(zygote_spawner, "_MEMORY_MB", old.group.memory_bytes // 2**20 + 24)
    for path in old.group.paths:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (path / name).exists():
                (path / name).write_text(str(zygote_spawner._MEMORY_MB * 2**20))
    others = [
        await started(spawner, tmp_path, number, (ALICE, BOB)[number % 2])
        for number in range(17, 49)
    ]
    assert not any(process.exited.done() for process in (first, *others))
    assert 3 <= len(spawner.zygotes.zygotes()) <= 20
    for process in (first, *others):
        await process.stop(0)


async def test_the_end_of_a_zygote_is_the_end_of_its_instances_and_the_next_start_works(
    spawner, tmp_path
):
    alice = await started(spawner, tmp_path, 16, ALICE)
    (zygote,) = spawner.zygotes.zygotes()
    os.kill(zygote.pid, signal.SIGKILL)
    with anyio.fail_after(20):
        await alice.exited
    await alice.stop(0)
    await until(lambda: bool(zygote.broken))
    bob = await started(spawner, tmp_path, 17, BOB)
    assert not bob.exited.done()


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "not noticed yet"])
async def test_a_start_whose_zygote_ends_at_the_last_moment_goes_another_way_and_can_be_stopped(
    spawner, tmp_path, monkeypatch, noticed
):
    alice = await started(spawner, tmp_path, 16, ALICE)
    (zygote,) = spawner.zygotes.zygotes()
    hear = zygote_spawner.hear

    async def heard(child):
        said = await hear(child)
        if child.pid and child.inner and not zygote.broken:
            os.kill(zygote.pid, signal.SIGKILL)
            if noticed:
                await until(lambda: bool(zygote.broken))
        return said

    monkeypatch.setattr(zygote_spawner, "hear", heard)
    launch = Launch(
        instance_id(), "u_17", 17, (PYTHON, "-c", WAITS), tmp_path / "home17", preload=PRELOAD
    )
    with anyio.fail_after(30):
        bob = await spawner.zygotes.start(launch)
        await alice.exited
        if noticed:
            await anyio.wait_readable(bob.stdout)
            assert os.read(bob.stdout, 10) == b"up\n"
        else:
            await anyio.sleep(0.5)  # it may have been taken, and then it has ended
        await bob.stop(0)
        await alice.stop(0)
    assert spawner.zygotes.processes() == set()


async def test_many_starts_at_once_come_from_one_zygote(spawner, tmp_path):
    found = []

    async def one(number: int) -> None:
        found.append(await started(spawner, tmp_path, number, ALICE))

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(16, 32):
                tasks.start_soon(one, number)
    assert len({process.pid for process in found}) == 16
    assert len(spawner.zygotes.zygotes()) == 1
    for process in found:
        await process.stop(0)
    (zygote,) = spawner.zygotes.zygotes()
    assert zygote.children == {}


async def test_a_start_that_is_given_up_leaves_nothing(spawner, tmp_path):
    await (await started(spawner, tmp_path, 16, ALICE)).stop(0)
    (zygote,) = spawner.zygotes.zygotes()
    before = tree(zygote.pid)
    for delay in (0.0, 0.005, 0.01, 0.02):
        with anyio.move_on_after(delay):
            process = await started(spawner, tmp_path, 16, ALICE)
            await process.stop(0)
    for process in spawner.zygotes.processes():  # it came up in time, and was given up after that
        await process.stop(0)
    await until(lambda: tree(zygote.pid) <= before)


SPAWNS = (
    "import os, sys; child = os.fork();"
    " child and print('up', flush=True); sys.stdin.read(); child or os._exit(0)"
)


@pytest.mark.root
async def test_every_process_of_a_forked_instance_is_in_the_groups_of_that_instance(
    spawner, tmp_path
):
    if not spawner.plain.controllers:
        pytest.skip("no control group can be written here")
    found = {}
    for number, canary in ((16, ALICE), (17, BOB)):
        process = await started(spawner, tmp_path, number, canary, SPAWNS)
        pids = tree(process.pid)
        assert len(pids) == 2
        lines = [
            line.rpartition("/mcphub/")
            for pid in pids
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()  # noqa: ASYNC240
        ]
        names = [name for _, shown, name in lines if shown]
        assert len(names) >= len(pids)
        found[number] = set(names)
    # one group for all processes of a user's instance, and another one for the other user's
    assert [len(names) for names in found.values()] == [1, 1]
    assert found[16].isdisjoint(found[17])
    assert all(name.startswith("i_") for names in found.values() for name in names)


SHY = """
receive = child.receive
def shy(*words):
    data, fds = receive(*words)
    return b'0', [*fds[:5], *fds[5 + int(data):]]
child.receive = shy
"""


@pytest.mark.root
async def test_a_child_that_does_not_join_its_groups_never_becomes_an_instance(
    tmp_path, monkeypatch
):
    head, serve = zygotes._BOOT.split("main(int")
    head = head.replace("import main;", "import main; from mcphub.spawn.zygote import child;")
    monkeypatch.setattr(zygotes, "_BOOT", f"{head}\nexec({SHY!r})\nmain(int{serve}")
    async with ForkingSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        if not spawner.plain.controllers:
            pytest.skip("no control group can be written here")
        with pytest.raises(AssertionError):  # it was started plainly
            await started(spawner, tmp_path, 16, ALICE)
        (zygote,) = spawner.zygotes.zygotes()
        await until(lambda: not zygote.children)
        assert not spawner.zygotes.processes()
