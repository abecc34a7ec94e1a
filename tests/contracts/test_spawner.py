"""The contract of every spawner; also run as an unprivileged user by test_spawner_unprivileged."""

import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import pytest
from tests.forked import ForkingSpawner

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import InvalidInput, Unavailable, UpstreamFailed
from mcphub.ids import instance_id
from mcphub.spawn.bubblewrap import etc_directories
from mcphub.spawn.building import Layer
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Process, Spawner
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.vault.secret import Secret

pytestmark = pytest.mark.anyio
PYTHON = "/usr/bin/python3"


# Each way of building a sandbox, by what the machine is made to lack; and none.
WITHOUT = {
    "bubblewrap": frozenset(),
    "own-code": frozenset({Layer.BUBBLEWRAP}),
    "no-namespaces": frozenset({Layer.NAMESPACES}),
}


def make(kind: str, state: Path) -> AbstractAsyncContextManager[Spawner]:
    if kind in WITHOUT:
        return SandboxedSpawner(SandboxSettings(state, without=WITHOUT[kind]))
    if kind == "forked":
        return ForkingSpawner(SandboxSettings(state))
    return UnsandboxedSpawner()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A place that every uid can pass through: without an own root, homes have the host's paths."""
    with tempfile.TemporaryDirectory(prefix="mcphub-spawner-", ignore_cleanup_errors=True) as name:
        place = Path(name)
        place.chmod(0o711)
        yield place


@pytest.fixture(params=[*WITHOUT, "forked", "unsandboxed"])
async def spawner(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spawner]:
    async with make(request.param, tmp_path / "run") as found:
        if request.param in WITHOUT:
            assert found.level, found.problem
            assert (found.level > 2) == (request.param != "no-namespaces"), found.problem
            assert (found.means == "bubblewrap") == (request.param == "bubblewrap"), found.problem
        yield found


def launch(home: Path, *argv: str | Secret, number: int = 16, **rest: object) -> Launch:
    return Launch(instance_id(), f"u_{number}", number, argv, home, **rest)


def python(home: Path, code: str, **rest: object) -> Launch:
    return launch(home, PYTHON, "-u", "-c", code, **rest)


async def read(process: Process, until: bytes | None = None, limit_s: float = 20) -> bytes:
    """Read stdout to its end, or until it holds `until`."""
    data = b""
    with anyio.fail_after(limit_s):
        while until is None or until not in data:
            await anyio.wait_readable(process.stdout)
            part = os.read(process.stdout, 65536)
            if not part:
                break
            data += part
    return data


async def exit_status(process: Process) -> int:
    with anyio.fail_after(20):
        return await process.exited


async def run(spawner: Spawner, wanted: Launch) -> tuple[int, str, list[str]]:
    process = await spawner.start(wanted)
    out = await read(process)
    status = await exit_status(process)
    await process.stop(0)
    return status, out.decode(), process.stderr.lines()


def has_copies(spawner: Spawner) -> bool:
    """Whether it can lay an owner's copy over the package's directory; what is forked never has one."""
    return isinstance(spawner, SandboxedSpawner) and spawner.level > 2


def descendants_with(text: str) -> list[int]:
    """Processes of the machine whose command line holds `text`."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                if text.encode() in Path("/proc", name, "cmdline").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def test_an_instance_echoes_and_its_exit_status_is_told(spawner, tmp_path):
    code = "import sys; print(sys.stdin.readline().upper(), end=''); sys.exit(7)"
    process = await spawner.start(python(tmp_path / "h", code))
    os.write(process.stdin, b"hello\n")
    assert await read(process) == b"HELLO\n"
    assert await exit_status(process) == 7
    await process.stop()


async def test_closing_stdin_ends_a_polite_instance_before_any_signal(spawner, tmp_path):
    code = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: print('TERM'));"
        "print('up'); sys.stdin.read(); sys.exit(0)"
    )
    process = await spawner.start(python(tmp_path / "h", code))
    await read(process, b"up")
    with anyio.fail_after(10):
        await process.stop(9)
    assert await process.exited == 0


async def test_term_comes_after_the_grace_and_before_kill(spawner, tmp_path):
    code = (
        "import signal, sys, time\n"
        "def end(*_): open('said', 'w').write('TERM'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end); print('up')\n"
        "while True: time.sleep(1)"
    )
    home = tmp_path / "h"
    process = await spawner.start(python(home, code))
    await read(process, b"up")
    with anyio.fail_after(15):
        await process.stop(0.3)
    assert (home / "said").read_text() == "TERM"


async def test_an_instance_that_ignores_term_is_killed(spawner, tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\n"
        "while True: time.sleep(1)"
    )
    process = await spawner.start(python(tmp_path / "h", code))
    await read(process, b"up")
    with anyio.fail_after(15):
        await process.stop(0.2)
    assert await process.exited != 0


async def test_a_server_that_never_looks_at_stdin_gets_term_soon(spawner, tmp_path):
    process = await spawner.start(launch(tmp_path / "h", "/bin/sleep", "600"))
    with anyio.fail_after(30):
        await process.stop(60)
    assert await process.exited != 0


async def test_a_stop_without_grace_ends_the_waiting_of_another(spawner, tmp_path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up')\n"
        "while True: time.sleep(1)"
    )
    process = await spawner.start(python(tmp_path / "h", code))
    await read(process, b"up")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.stop, 600)
            await anyio.wait_all_tasks_blocked()
            await process.stop(0)


async def test_stop_twice_and_at_once_is_fine(spawner, tmp_path):
    process = await spawner.start(launch(tmp_path / "h", "/bin/cat"))
    with anyio.fail_after(15):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.stop, 1)
            tasks.start_soon(process.stop, 1)
    await process.stop()


async def test_children_that_left_the_session_end_with_the_instance(spawner, tmp_path):
    marker = f"sleep-{instance_id()}"
    code = (
        "import subprocess, sys\n"
        f"child = 'import time; time.sleep(600)  # {marker}'\n"
        "subprocess.Popen([sys.executable, '-c', child], start_new_session=True)\n"
        "print('up'); sys.stdin.read()"
    )
    process = await spawner.start(python(tmp_path / "h", code))
    await read(process, b"up")
    await process.stop(2)
    assert descendants_with(f"time.sleep(600)  # {marker}") == []


async def test_stderr_is_bounded_neutralised_and_without_secrets(spawner, tmp_path):
    code = (
        "import base64, os, sys, urllib.parse\n"
        "secret = os.environ['TOKEN']\n"
        "for i in range(4000): print('x' * 80, i, file=sys.stderr)\n"
        "print('y' * 100_000, file=sys.stderr)\n"
        "print('plain', secret, 'quoted', urllib.parse.quote(secret, safe=''), file=sys.stderr)\n"
        "print('basic', base64.b64encode(('me:' + secret).encode()).decode(), file=sys.stderr)\n"
        "print('\\x1b[31mred\\x1b[0m', file=sys.stderr)\n"
    )
    wanted = python(tmp_path / "h", code, env={"TOKEN": Secret("p@ss/w0rd+tok3n")})
    _, _, lines = await run(spawner, wanted)
    text = "\n".join(lines)
    assert sum(map(len, lines)) <= 64 * 1024
    assert max(map(len, lines)) <= 4096
    assert "plain [redacted] quoted [redacted]" in text
    assert "p@ss" not in text
    assert "w0rd" not in text
    assert "QHNzL3cwcmQrdG9rM" not in text
    assert "\x1b" not in text
    assert "red" in text


async def test_the_home_persists_and_belongs_to_one_user(spawner, tmp_path):
    write = "from pathlib import Path; import os; Path('note').write_text(os.environ['WHO'])"
    look = "from pathlib import Path; print(Path('note').read_text())"
    for number, who in ((16, "alice"), (17, "bob")):
        env = {"WHO": who}
        assert (await run(spawner, python(tmp_path / who, write, number=number, env=env)))[0] == 0
    for number, who in ((16, "alice"), (17, "bob")):
        status, out, _ = await run(spawner, python(tmp_path / who, look, number=number))
        assert (status, out) == (0, f"{who}\n")
        assert (tmp_path / who).stat().st_mode & 0o777 == 0o700


async def test_each_owner_writes_into_a_copy_of_the_package_that_nobody_else_sees(
    spawner, tmp_path
):
    if not has_copies(spawner):
        return  # without an own view of the files the package stays read-only
    package = tmp_path / "store" / "package"
    package.mkdir(parents=True)
    (package / "code.txt").write_text("code")
    (package / "code.txt").chmod(0o444)
    package.chmod(0o555)
    write = (
        "import os; from pathlib import Path; here = Path(os.environ['AT']);"
        "(here / 'data').open('a').write(os.environ['WHO']); (here / 'code.txt').write_text('x');"
        "print((here / 'data').read_text())"
    )
    for number, who, seen in (
        (16, "alice", "alice"),
        (17, "bob", "bob"),
        (16, "alice", "alicealice"),
    ):
        env = {"WHO": who, "AT": str(package)}
        own = {"readable": (tmp_path / "store",), "own": (package,), "env": env}
        home = tmp_path / "homes" / who / "server"
        status, out, said = await run(spawner, python(home, write, number=number, **own))
        assert (status, out) == (0, f"{seen}\n"), said
    assert [path.name for path in package.iterdir()] == ["code.txt"]
    assert (package / "code.txt").read_text() == "code"
    status, _, _ = await run(
        spawner,
        python(
            tmp_path / "homes" / "eve" / "server",
            write,
            number=18,
            readable=(tmp_path / "store",),
            env=env,
        ),
    )
    assert status != 0


async def test_a_package_that_is_too_large_to_copy_is_refused(spawner, tmp_path):
    if not has_copies(spawner):
        return
    package = tmp_path / "package"
    package.mkdir()
    with (package / "large").open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(InvalidInput, match="too large"):
        await spawner.start(python(tmp_path / "h", "", readable=(package,), own=(package,)))


async def test_the_environment_is_built_from_empty(spawner, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY_OF_THE_HUB", "canary-0x1")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/canary-0x1")
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    status, out, _ = await run(spawner, python(tmp_path / "h", code, env={"GIVEN": "yes"}))
    assert status == 0
    assert "canary" not in out
    assert '"GIVEN": "yes"' in out
    assert f'"HOME": "{spawner.home_inside(tmp_path / "h")}"' in out


async def test_the_working_directory_is_made_inside_the_home(spawner, tmp_path):
    wanted = launch(tmp_path / "h", "/bin/pwd", cwd="own/deep")
    _, out, _ = await run(spawner, wanted)
    assert out.strip() == f"{spawner.home_inside(tmp_path / 'h')}/own/deep"


async def test_settings_of_the_machines_programs_are_seen(spawner, tmp_path):
    """Debian's Chromium and Java do not start without theirs."""
    if not spawner.level:
        return  # without a sandbox everything is seen
    wanted = etc_directories()
    for name in ("chromium.d", "ssl/certs"):
        assert (name in wanted) is os.path.isdir(f"/etc/{name}")  # noqa: ASYNC240, PTH112
    code = "import os, sys; print([n for n in sys.argv[1:] if not os.listdir('/etc/' + n)])"
    home = tmp_path / "h"
    _, out, _ = await run(spawner, launch(home, PYTHON, "-c", code, *wanted))
    assert out.strip() == str([name for name in wanted if not os.listdir(f"/etc/{name}")])  # noqa: PTH208


@pytest.mark.parametrize("program", ["/usr/bin/no-such-program", "/usr/share", "relative", ""])
async def test_a_missing_program_is_the_servers_fault(spawner, tmp_path, program):
    with pytest.raises(UpstreamFailed) as caught:
        await spawner.start(launch(tmp_path / "h", program))
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.hint


async def test_a_missing_readable_directory_is_the_servers_fault(spawner, tmp_path):
    if not spawner.level:
        return  # without a sandbox every path is readable
    with pytest.raises(UpstreamFailed):
        await spawner.start(launch(tmp_path / "h", "/bin/true", readable=(tmp_path / "none",)))


async def test_a_secret_argument_arrives(spawner, tmp_path):
    wanted = launch(tmp_path / "h", "/bin/echo", "a b", Secret("s'e$c\"ret"))
    status, out, _ = await run(spawner, wanted)
    assert (status, out) == (0, "a b s'e$c\"ret\n")


async def test_fifty_starts_leave_no_descriptor_behind(spawner, tmp_path):
    await run(spawner, launch(tmp_path / "h", "/bin/true"))
    before = descriptors()
    for _ in range(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(run, spawner, launch(tmp_path / "h", "/bin/true"))
    assert len(descriptors()) <= len(before), (before, descriptors())


async def test_only_three_descriptors_are_inherited(spawner, tmp_path):
    held = os.open("/", os.O_RDONLY)
    try:
        code = "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        _, out, _ = await run(spawner, python(tmp_path / "h", code))
    finally:
        os.close(held)
    assert out == "[0, 1, 2]\n"


async def test_leaving_the_spawner_ends_what_still_runs(tmp_path):
    for kind in ("bubblewrap", "own-code", "forked", "unsandboxed"):
        async with make(kind, tmp_path / "run") as spawner:
            process = await spawner.start(launch(tmp_path / kind, "/bin/sleep", "600"))
        assert process.exited.done()


async def test_a_start_does_not_stall_the_event_loop(spawner, tmp_path):
    started = time.monotonic()
    process = await spawner.start(launch(tmp_path / "h", "/bin/sleep", "600"))
    assert time.monotonic() - started < 5
    await process.stop(0)


async def test_limits_reach_the_instance(spawner, tmp_path):
    if not spawner.level:
        return  # no sandbox, no limits
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CORE))"
    wanted = python(tmp_path / "h", code, sandbox=SandboxSpec(files=128))
    _, out, _ = await run(spawner, wanted)
    assert out == "(128, 128) (0, 0)\n"


async def test_a_server_that_needs_a_network_is_refused_where_none_can_be_confined(
    spawner, tmp_path
):
    if spawner.level not in {1, 2}:
        return  # every other level confines it; none promises nothing
    wanted = launch(tmp_path / "h", "/bin/true", sandbox=SandboxSpec(egress=("example.org",)))
    with pytest.raises(Unavailable, match="network"):
        await spawner.start(wanted)


async def test_probes_of_two_hubs_with_one_process_id_do_not_meet(tmp_path):
    """Hubs of two containers may share a hierarchy of control groups and have the same process id."""
    found: list[SandboxedSpawner] = []

    async def probe(state: Path) -> None:
        async with SandboxedSpawner(SandboxSettings(state)) as one:
            found.append(one)

    async with anyio.create_task_group() as group:
        for name in ("one", "two"):
            group.start_soon(probe, tmp_path / name)
    assert [one.means for one in found] == ["bubblewrap"] * 2
    assert [one.problem for one in found] == [""] * 2


LOOK = """
import json, os, stat, sys
place = os.path.expanduser("~/.mail/key.json")
real = os.path.realpath(place)
print(json.dumps({
    "text": open(place).read(), "mode": stat.S_IMODE(os.stat(place).st_mode),
    "folder": stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode), "mine": os.stat(place).st_uid == os.getuid(),
    "closed": stat.S_IMODE(os.stat("/run/mcp/files").st_mode), "netrc": open(os.path.expanduser("~/.netrc")).read(),
    "kind": [l.split()[2] for l in open("/proc/mounts") if l.split()[1] == "/run/mcp/files"],
}))
with open(place, "a") as file: file.write("more")
print(open(place).read().endswith("more"))
"""


def in_memory(spawner: Spawner) -> bool:
    """Whether it has a place in memory for files: without namespaces there is none."""
    return spawner.level > 2


async def is_refused(spawner: Spawner, wanted: Launch) -> None:
    """Where there is no such place nothing is started, and nothing is written elsewhere instead."""
    with pytest.raises(Unavailable, match="file"):
        await spawner.start(wanted)
    assert not wanted.home.exists() or not list(wanted.home.iterdir())


async def test_a_file_is_in_memory_at_its_place_in_the_home_and_nowhere_on_disk(spawner, tmp_path):
    # one user: another one's view is in tests/security/test_files.py
    text = 'one "line"\nand $another `line`\n'
    files = {".mail/key.json": Secret(text), ".netrc": Secret("machine x password hidden-word")}
    wanted = python(tmp_path / "home", LOOK, files=files)
    if not in_memory(spawner):
        await is_refused(spawner, wanted)
        return
    status, out, lines = await run(spawner, wanted)
    assert status == 0, lines
    seen, wrote = out.splitlines()
    assert json.loads(seen) == {
        "text": text, "mode": 0o600, "folder": 0o700, "mine": True, "closed": 0o700,
        "netrc": "machine x password hidden-word", "kind": ["tmpfs"],
    }  # fmt: skip
    assert wrote == "True"
    for path in (tmp_path / "home").rglob("*"):
        assert path.is_symlink() or path.is_dir(), path
    again, out, _ = await run(spawner, python(tmp_path / "home", LOOK, files=files))
    assert again == 0
    assert json.loads(out.splitlines()[0])["text"] == text  # what the server wrote is gone


async def test_what_lies_at_the_place_of_a_file_opens_nothing_and_is_replaced(spawner, tmp_path):
    if not in_memory(spawner):
        await is_refused(spawner, python(tmp_path / "home", "", files={".key": Secret("x")}))
        return
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o777)
    outside.chmod(0o777)
    (outside / "key.json").write_text("the hub's")
    (outside / "key.json").chmod(0o666)
    plant = f"""
import os
os.symlink({str(outside)!r}, os.path.expanduser("~/.mail"))
os.symlink({str(outside / "key.json")!r}, os.path.expanduser("~/.netrc"))
open(os.path.expanduser("~/.old"), "w").write("on disk")
"""
    home = tmp_path / "home"
    assert (await run(spawner, python(home, plant)))[0] == 0
    files = {".netrc": Secret("new-1"), ".old": Secret("new-2")}
    look = "import os; print([open(os.path.expanduser(p)).read() for p in ('~/.netrc', '~/.old')])"
    assert (await run(spawner, python(home, look, files=files)))[1] == "['new-1', 'new-2']\n"
    assert (home / ".old").is_symlink()
    status, _, lines = await run(
        spawner, python(home, look, files={".mail/key.json": Secret("new-3")})
    )
    assert status != 0  # a link to nowhere, as the sandbox sees it
    assert lines
    assert sorted(path.name for path in outside.iterdir()) == ["key.json"]
    assert (outside / "key.json").read_text() == "the hub's"


async def test_a_directory_in_the_place_of_a_file_is_told(spawner, tmp_path):
    if not in_memory(spawner):
        await is_refused(spawner, python(tmp_path / "home", "", files={".key": Secret("x")}))
        return
    home = tmp_path / "home"
    make_one = "import os; os.makedirs(os.path.expanduser('~/.netrc/inner'))"
    assert (await run(spawner, python(home, make_one)))[0] == 0
    status, out, lines = await run(
        spawner, python(home, "print('ran')", files={".netrc": Secret("hidden-word")})
    )
    assert status != 0
    assert not out
    assert ".netrc" in " ".join(lines)
    assert [path.name for path in home.iterdir()] == [".netrc"]  # no half-made link is left


async def test_what_a_server_says_of_its_file_is_hidden(spawner, tmp_path):
    if not in_memory(spawner):
        await is_refused(spawner, python(tmp_path / "home", "", files={".key": Secret("x")}))
        return
    key = json.dumps({"private_key": "-----BEGIN\nMIIEvQIBADANBgkq\n-----END"}, indent=1)
    code = """
import json, os, sys
text = open(os.path.expanduser("~/.key.json")).read()
sys.stderr.write(text + json.loads(text)["private_key"] + "\\n")
sys.stderr.write(open(os.path.expanduser("~/.netrc")).read().split()[-1] + "\\n")
"""
    launched = python(
        tmp_path / "home",
        code,
        files={".key.json": Secret(key), ".netrc": Secret("password tok-4711")},
        secrets=(Secret("tok-4711"), Secret(key)),
    )
    status, _, lines = await run(spawner, launched)
    assert status == 0, lines
    said = "\n".join(lines)
    assert "[redacted]" in said
    assert "MIIEvQ" not in said
    assert "tok-4711" not in said


async def test_files_that_are_too_large_or_no_text_are_refused(spawner, tmp_path):
    for text in ("x" * 600_000, "a\0b"):
        with pytest.raises((InvalidInput, Unavailable)) as refused:
            await spawner.start(python(tmp_path / "home", "", files={".key": Secret(text)}))
        assert isinstance(refused.value, InvalidInput) == in_memory(spawner)
