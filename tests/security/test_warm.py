"""A warm worker knows nothing of any user until it is one user's, and then it is nobody else's."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.memory import holds
from tests.polling import until
from tests.warmed import NODE, SERVER, WarmingSpawner, launch_of, package

from mcphub.spawn.process import children, descendants
from mcphub.spawn.sandboxed import SandboxSettings
from mcphub.vault.secret import Secret

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not Path(NODE).exists(), reason="needs Debian's Node.js"),
]
ALICE, BOB = "canary-of-alice-7713", "canary-of-bob-2960"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: reads other processes")


@pytest.fixture
async def spawner(tmp_path):
    async with WarmingSpawner(SandboxSettings(tmp_path / "run")) as found:
        assert found.plain.level, found.plain.problem
        yield found


@pytest.fixture
def server(tmp_path):
    return package(tmp_path / "package")


async def ask(process, expression: str) -> object:
    """Let the server of `warmed` evaluate an expression."""
    os.write(process.stdin, expression.encode() + b"\n")
    data = b""
    with anyio.fail_after(60):
        while not data.endswith(b"\n"):
            await anyio.wait_readable(process.stdout)
            part = os.read(process.stdout, 65_536)
            assert part, process.stderr.lines()
            data += part
    process.prove()
    return json.loads(data)


async def started(spawner, server, tmp_path, number: int, canary: str):
    launch = launch_of(
        *server,
        tmp_path / f"home{number}",
        number,
        args=(Secret(f"argument-{canary}"),),
        env={"TOKEN": Secret(canary)},
    )
    process = await spawner.start(launch)
    await ask(process, "global.kept = process.env.TOKEN + '!'; require('fs').readdirSync('.')")
    return process


@pytest.mark.root
@needs_root
async def test_no_byte_of_a_user_is_in_a_worker_that_waits_or_is_another_users(
    spawner, server, tmp_path
):
    for _ in range(2):
        for number, canary in ((16, ALICE), (17, BOB)):
            await (await started(spawner, server, tmp_path, number, canary)).stop(0)
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    bob = await started(spawner, server, tmp_path, 17, BOB)
    await until(lambda: bool(spawner.warm.workers()))
    waiting = {worker.process.pid for worker in spawner.warm.workers()}
    around = {pid for each in waiting for pid in (each, *descendants(each))}
    around.add(spawner.forking.preparer.pid)
    assert len(around) >= 4
    assert {pid: found for pid in around if (found := holds(pid, ALICE, BOB))} == {}

    def whole(process) -> set[str]:
        return {word for pid in descendants(process.pid) for word in holds(pid, ALICE, BOB)}

    # the same look finds what is there
    assert whole(alice) == {ALICE}
    assert whole(bob) == {BOB}


async def test_a_worker_serves_one_user_and_is_never_put_back(spawner, server, tmp_path):
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    assert alice not in {worker.process for worker in spawner.warm.workers()}
    first = await ask(alice, "process.env.TOKEN")
    bob = await started(spawner, server, tmp_path, 17, BOB)
    assert alice.pid != bob.pid
    assert (first, await ask(bob, "process.env.TOKEN")) == (ALICE, BOB)
    assert await ask(alice, "process.env.TOKEN") == ALICE


async def test_what_a_worker_becomes_looks_like_a_plain_start(spawner, server, tmp_path):
    script, warm = server
    launch = launch_of(script, warm, tmp_path / "home", 16, args=("a", "b c"), env={"X": "1"})
    looks = (
        "[process.argv, process.execArgv, process.env, process.cwd(), process.getuid(),"
        " process.umask(), require.main === module, __filename, typeof gc,"
        " require('fs').readFileSync('/proc/self/status', 'utf8').match(/^(Cap|NoNew|Seccomp).*$/gm),"
        " require('fs').readFileSync('/proc/self/limits', 'utf8'),"
        " require('fs').readdirSync('/'), require('fs').readdirSync('/proc/self/fd').length]"
    )
    warmed = await ask(await spawner.start(launch), looks)
    plain = await ask(await spawner.plain.start(launch), looks)
    assert warmed == plain


async def test_the_environment_of_a_waiting_worker_holds_nothing_of_the_hub(
    spawner, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("HUB_SECRET", "canary-of-the-hub")
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    inner = max(descendants(alice.pid))
    if os.geteuid() == 0:
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{inner}/{name}").read_bytes()  # noqa: ASYNC240
            assert ALICE.encode() not in shown
            assert b"canary" not in shown
    assert await ask(alice, "Object.keys(process.env).sort()") == sorted(
        ["HOME", "LANG", "LOGNAME", "PATH", "PWD", "TMPDIR", "TOKEN", "USER"]
    )


async def test_each_user_has_own_files_in_memory_and_a_waiting_worker_none(
    spawner, server, tmp_path
):
    script, warm = server
    found = {}
    for number, canary in ((16, ALICE), (17, BOB)):
        files = {".x/key.json": Secret(f"é\n{canary}"), ".netrc": Secret(canary)}
        home = tmp_path / f"files{number}"
        found[number] = await spawner.start(launch_of(script, warm, home, number, files=files))
        read = "['.x/key.json', '.netrc'].map((f) => require('fs').readFileSync(f, 'utf8'))"
        assert await ask(found[number], read) == [f"é\n{canary}", canary]
        modes = "['/run/mcp/files', '.x', '.x/key.json'].map((f) => require('fs').statSync(f).mode & 0o777)"
        assert await ask(found[number], modes) == [0o700, 0o700, 0o600]
        assert (home / ".netrc").is_symlink()
        assert not [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]
    other = "require('fs').readFileSync('/run/mcp/files/.netrc', 'utf8')"
    assert [await ask(found[number], other) for number in (16, 17)] == [ALICE, BOB]
    await ask(found[16], f"process.stderr.write('it is {ALICE}\\n')")
    await until(lambda: bool(found[16].stderr.lines()))
    assert found[16].stderr.lines() == ["it is [redacted]"]
    # a server without files has no place for them
    without = await started(spawner, server, tmp_path, 18, ALICE)
    assert await ask(without, "require('fs').existsSync('/run/mcp/files')") is False


async def test_each_user_has_the_own_home_and_its_files_are_the_users(spawner, server, tmp_path):
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    bob = await started(spawner, server, tmp_path, 17, BOB)
    write = "require('fs').writeFileSync(process.env.HOME + '/note', process.env.TOKEN)"
    assert await ask(alice, write) is None
    assert await ask(bob, "require('fs').readdirSync(process.env.HOME)") == []
    note = tmp_path / "home16" / "note"
    assert note.read_text() == ALICE
    base = spawner.plain.settings.uid_base
    assert note.stat().st_uid == (base + 16 if os.geteuid() == 0 else os.geteuid())
    mounts = "require('fs').readFileSync('/proc/self/mounts', 'utf8')"
    lines = [line.split() for line in str(await ask(alice, mounts)).splitlines()]
    (flags,) = [line[3] for line in lines if line[1] == "/home/u"]
    assert {"nosuid", "nodev"} <= set(flags.split(","))
    # a file that is there before the start is the user's, too
    await alice.stop(0)
    again = await started(spawner, server, tmp_path, 16, ALICE)
    more = "(require('fs').appendFileSync('note', '+'), require('fs').readFileSync('note', 'utf8'))"
    assert await ask(again, more) == f"{ALICE}+"


@pytest.mark.root
@needs_root
async def test_no_two_workers_have_one_kernel_uid(spawner, server, tmp_path):
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    bob = await started(spawner, server, tmp_path, 17, BOB)
    uids = [os.stat(f"/proc/{max(descendants(each.pid))}").st_uid for each in (alice, bob)]  # noqa: PTH116
    assert len(set(uids)) == 2
    assert not {200_016, 200_017} & set(uids)


async def test_a_secret_that_a_worker_got_late_is_hidden_in_its_stderr(spawner, server, tmp_path):
    alice = await started(spawner, server, tmp_path, 16, ALICE)
    await ask(alice, "process.stderr.write('it is ' + process.env.TOKEN + '\\n')")
    await until(lambda: bool(alice.stderr.lines()))
    assert alice.stderr.lines() == ["it is [redacted]"]


async def test_a_worker_that_died_while_it_waited_costs_nothing_but_time(spawner, server, tmp_path):
    launch = launch_of(*server, tmp_path / "home", 16)
    await until(lambda: spawner.warm.is_stocked(launch))
    (worker,) = spawner.warm.workers()
    os.kill(worker.process.pid, signal.SIGKILL)
    await until(worker.process.exited.done)
    process = await spawner.warm.start(launch)
    assert await ask(process, "1 + 1") == 2


async def test_another_worker_is_brought_up_when_the_start_that_took_one_has_proven_itself(
    spawner, server, tmp_path
):
    launch = launch_of(*server, tmp_path / "home", 16)
    ordered = spawner.warm.stock._wanted
    await until(lambda: spawner.warm.is_stocked(launch))
    await until(lambda: not ordered.is_set())
    process = await spawner.warm.start(launch)
    assert (ordered.is_set(), spawner.warm.workers()) == (False, [])
    assert await ask(process, "1 + 1") == 2
    await until(lambda: bool(spawner.warm.workers()))
    # a start that never answers puts it off until its end, and no longer
    await until(lambda: not ordered.is_set())
    silent = await spawner.warm.start(launch)
    assert not ordered.is_set()
    await silent.stop(0)
    await until(lambda: bool(spawner.warm.workers()))


async def test_a_package_that_cannot_be_loaded_early_is_started_plainly(spawner, tmp_path):
    script, warm = package(tmp_path / "bad", dependency="if (!process.env.KEY) throw Error('no')")
    launch = launch_of(script, warm, tmp_path / "home", 16, env={"KEY": "1"})
    process = await spawner.warm.start(launch)
    assert await ask(process, "1 + 1") == 2
    await until(lambda: all(shelf.failed_at > 0 for shelf in spawner.warm.stock.shelves()))
    assert spawner.warm.workers() == []


async def test_a_package_that_speaks_while_it_is_loaded_never_becomes_an_instance(
    spawner, tmp_path
):
    script, warm = package(tmp_path / "loud", dependency="console.log('{\"jsonrpc\"')")
    launch = launch_of(script, warm, tmp_path / "home", 16)
    spawner.warm.is_stocked(launch)
    await until(lambda: all(shelf.failed_at > 0 for shelf in spawner.warm.stock.shelves()))
    assert spawner.warm.workers() == []


async def test_a_stream_that_a_package_opened_loses_no_byte(spawner, tmp_path):
    script, warm = package(tmp_path / "opens", dependency="process.stdin; process.stdout;")
    process = await spawner.start(launch_of(script, warm, tmp_path / "home", 16))
    assert await ask(process, "'first'") == "first"


MODERN = (
    "import { createRequire } from 'node:module'; import dep from 'dep';"
    "const early = `${process.env.TOKEN} ${process.argv.slice(2)} ${process.cwd()}`;"
    "const require = createRequire(import.meta.url); global.dep = dep;" + SERVER.split(";", 1)[1]
)


async def test_a_module_that_was_linked_early_runs_when_its_user_is_known(spawner, tmp_path):
    script, warm = package(tmp_path / "package", server=MODERN)
    (Path(script).parent / "package.json").write_text('{"type": "module"}')
    warm = replace(warm, modules=(*warm.modules, f"link {script}"))
    launch = launch_of(script, warm, tmp_path / "home", 16)
    await until(lambda: spawner.warm.is_stocked(launch))
    Path(script).write_text("throw new Error('it was read when its user came')")  # noqa: ASYNC240
    process = await started(spawner, (script, warm), tmp_path, 16, ALICE)
    assert await ask(process, "early") == f"{ALICE} argument-{ALICE} /home/u"


async def test_an_environment_that_is_too_large_for_a_worker_is_started_plainly(
    spawner, server, tmp_path
):
    env = {"LARGE": "x" * 100_000}
    launch = launch_of(*server, tmp_path / "home", 16, env=env)
    await until(lambda: spawner.warm.is_stocked(launch))
    process = await spawner.warm.start(launch)
    assert await ask(process, "process.env.LARGE.length") == 100_000


async def test_workers_and_their_homes_are_gone_with_the_hub(tmp_path, server):
    async with WarmingSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        alice = await started(spawner, server, tmp_path, 16, ALICE)
        await until(lambda: bool(spawner.warm.workers()))
        (worker, *_) = spawner.warm.workers()
    assert worker.process.exited.done()
    assert alice.exited.done()
    assert not (tmp_path / "run" / "waiting").exists()
    assert children(worker.process.pid) == []


async def test_what_a_worker_writes_while_it_waits_is_in_no_home(spawner, tmp_path):
    text = (
        "require('fs').writeFileSync('/home/u/left', 'x'); global.d = require('fs').openSync('.')"
    )
    script, warm = package(tmp_path / "writes", SERVER, dependency=text)
    process = await spawner.start(launch_of(script, warm, tmp_path / "home", 16))
    assert await ask(process, "require('fs').readdirSync('/home/u')") == []
    assert list((tmp_path / "home").iterdir()) == []
    # the empty home is gone, also for who has kept it open: it counts in nobody's quota
    waited = tmp_path / "run" / "waiting" / spawner.taken[-1]
    await until(lambda: not waited.exists())
    more = await ask(process, "require('fs').writeFileSync(`/proc/self/fd/${global.d}/more`, 'x')")
    assert "ENOENT" in str(more)
