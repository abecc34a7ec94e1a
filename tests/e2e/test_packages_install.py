"""Real packages from npm and PyPI through the package store; each is really started."""

import asyncio
import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from tests.packages_fixture import CACHE, install, library, pin_of, store_at

from mcphub.catalog.packages import PackageStore
from mcphub.errors import InvalidInput, UpstreamFailed
from mcphub.spawn.native import SandboxedBuilds

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

TIME = ("uvx", "mcp-server-time==2026.10.19")
MEMORY = ("npx", "-y", "@modelcontextprotocol/server-memory@2026.8.31")
HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


async def greet(argv: tuple[str, ...], home: Path) -> dict[str, object]:
    """Start `argv`, send `initialize`, and return the result."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    with anyio.fail_after(60):
        async with await anyio.open_process(
            argv, env=env, cwd=home, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send(json.dumps(HELLO).encode() + b"\n")
            received = b""
            while not received.endswith(b"\n"):
                received += await process.stdout.receive()
            process.kill()
    return json.loads(received)["result"]


@pytest.fixture
def fresh_root(tmp_path: Path) -> Path:
    """Return the root of an empty store that shares the installers' caches only."""
    root = tmp_path / "packages"
    root.mkdir()
    (CACHE / "cache").mkdir(parents=True, exist_ok=True)
    (root / "cache").symlink_to(CACHE / "cache")
    return root


@pytest.mark.parametrize(
    "line",
    [
        MEMORY,
        ("npx", "-y", "@modelcontextprotocol/server-filesystem@2026.8.31", "."),
        TIME,
        ("uvx", "mcp-server-git==2026.10.19"),
        ("uvx", "--with", "mcp<2", "mcp-server-sqlite@2025.4.25", "--db-path", "x.db"),
    ],
    ids=lambda line: "-".join(line[1:]).replace("/", "-"),
)
async def test_an_installed_package_answers_initialize(
    package_store: PackageStore, tmp_path: Path, line: tuple[str, ...]
) -> None:
    found = await install(package_store, *line)
    result = await greet(found.argv, tmp_path)
    assert "serverInfo" in result


async def test_a_package_runs_where_only_its_readable_paths_and_usr_exist(
    package_store: PackageStore, tmp_path: Path
) -> None:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        pytest.skip("bubblewrap is not installed: apt-get install bubblewrap")
    for line in (TIME, MEMORY):
        found = await install(package_store, *line)
        assert all(path.is_dir() and path == path.resolve() for path in found.readable)
        binds = [word for path in found.readable for word in ("--ro-bind", str(path), str(path))]
        links = [
            word
            for name in ("bin", "lib", "lib64")
            for word in ("--symlink", f"usr/{name}", f"/{name}")
        ]
        inside = (bwrap, "--ro-bind", "/usr", "/usr", *links, "--proc", "/proc", "--dev", "/dev")
        home = ("--bind", str(tmp_path), str(tmp_path))
        result = await greet((*inside, *binds, *home, *found.argv), tmp_path)
        assert "serverInfo" in result


async def test_an_installation_is_read_only_and_readable_by_every_uid(
    package_store: PackageStore,
) -> None:
    for line in (TIME, MEMORY):
        found = await install(package_store, *line)
        for path in (found.readable[0], *found.readable[0].rglob("*")):
            if path.is_symlink():
                continue
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode & 0o222 == 0, path
            assert mode & 0o444 == 0o444, path
            assert not path.is_dir() or mode == 0o555, path
            assert path.stat().st_uid == os.geteuid()
            assert path.is_dir() or path.stat().st_nlink == 1, path


async def test_a_python_package_has_its_bytecode_on_disk(package_store: PackageStore) -> None:
    found = await install(package_store, *TIME)
    sources = list(found.readable[0].glob("venv/lib/*/site-packages/mcp/**/*.py"))
    assert sources
    for source in sources:
        compiled = list((source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc"))
        assert compiled, source


@pytest.mark.parametrize("line", [MEMORY, TIME], ids=["npm", "pypi"])
async def test_a_package_whose_hash_differs_from_its_pin_is_refused(
    package_store: PackageStore, fresh_root: Path, line: tuple[str, ...]
) -> None:
    pin = await pin_of(package_store, *line)
    npm = pin.ecosystem == "npm"
    other = pin.integrity[:-10] + "A" * 8 + "==" if npm else "sha256:" + "0" * 64
    store = store_at(fresh_root)
    tampered = dataclasses.replace(pin, integrity=other)
    with pytest.raises(UpstreamFailed) as caught:
        await store.install(tampered)
    assert caught.value.code == "integrity_mismatch"
    assert str(fresh_root) not in str(caught.value)
    assert store.installed(tampered) is None
    assert finished(fresh_root) == []


@pytest.mark.timeout(900)  # compiles a minute where it is the first time in this checkout
async def test_a_package_that_lacks_its_native_part_is_built_in_the_sandbox_and_works(
    tmp_path: Path,
) -> None:
    lacking = [name for name in ("make", "g++", "python3") if shutil.which(name) is None]
    if lacking:
        pytest.skip(f"no compiler here: apt-get install {' '.join(lacking)}")
    store = store_at(CACHE, SandboxedBuilds(200_000))
    place = await library(store, "node-pty@1.0.0")
    manifest = json.loads((place / "mcphub-package.json").read_text())
    assert manifest["native"]["built"] == ["node_modules/node-pty"]
    assert place.stat().st_uid == os.geteuid()
    assert not [path for path in place.rglob("*") if path.stat().st_mode & 0o222]
    script = (
        f"const pty = require({str(place / 'node_modules' / 'node-pty')!r});"
        "const run = pty.spawn('/bin/echo', ['made here'], {});"
        "run.onData(text => process.stdout.write(text))"
    )
    node = store._npm.node()
    with anyio.fail_after(60):
        done = await anyio.run_process([str(node), "-e", script], cwd=tmp_path)
    assert done.stdout.strip() == b"made here"


async def test_without_a_sandbox_a_package_that_builds_native_code_is_refused(
    package_store: PackageStore,
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await install(package_store, "npx", "-y", "better-sqlite3@11.10.0")
    assert caught.value.code == "native_build"
    assert "better-sqlite3" in caught.value.message


@pytest.mark.parametrize(
    "line",
    [
        ("npx", "@modelcontextprotocol/server-memory@999.0.0"),
        ("uvx", "mcp-server-time==999"),
        ("uvx", "--python", "3.99", "mcp-server-time"),
    ],
    ids=["npm", "pypi", "python"],
)
async def test_what_does_not_exist_is_invalid_input(
    package_store: PackageStore, line: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await pin_of(package_store, *line)
    assert caught.value.hint
    assert str(CACHE) not in str(caught.value)


async def test_a_program_that_the_package_lacks_is_named_with_those_it_has(
    package_store: PackageStore,
) -> None:
    with pytest.raises(InvalidInput) as caught:
        await install(package_store, "uvx", "--from", "mcp-server-time==2026.10.19", "nothing")
    assert "mcp-server-time" in caught.value.hint


async def test_two_processes_installing_at_once_make_one_directory(
    package_store: PackageStore, fresh_root: Path
) -> None:
    await pin_of(package_store, *TIME)
    with anyio.fail_after(150):
        first, second = await asyncio.gather(*(installer(fresh_root) for _ in range(2)))
        outputs = await asyncio.gather(first.communicate(), second.communicate())
    assert (first.returncode, second.returncode) == (0, 0)
    texts = [out.decode() for out, _ in outputs]
    assert sum("Downloading" in text for text in texts) == 1
    assert len(finished(fresh_root)) == 1


@pytest.mark.parametrize("stage", ["Downloading", "Sealing"])
async def test_after_kill_9_nothing_is_usable_and_the_next_installation_works(
    package_store: PackageStore, fresh_root: Path, tmp_path: Path, stage: str
) -> None:
    pin = await pin_of(package_store, *TIME)
    store = store_at(fresh_root)
    with anyio.fail_after(150):
        process = await installer(fresh_root)
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(stage.encode()):
                break
        process.kill()
        await process.communicate()
        await tools_ended(fresh_root)
        assert store.installed(pin) is None
        found = await store.install(pin)
    assert len(finished(fresh_root)) == 1
    assert [path.name for path in (fresh_root / "pypi").iterdir() if path.is_dir()] == [
        found.readable[0].name
    ]
    assert "serverInfo" in await greet(found.argv, tmp_path)


def finished(root: Path) -> list[Path]:
    """Return the directories that have their final name."""
    return [
        path
        for ecosystem in ("npm", "pypi")
        for path in (root / ecosystem).glob("*")
        if not path.name.startswith(".")
    ]


async def tools_ended(root: Path) -> None:
    """Wait until no process works inside `root`: the tools end with the hub."""
    while True:
        if not processes_in(root):
            return
        await anyio.sleep(0.02)


def processes_in(root: Path) -> list[int]:
    """Return the processes that work inside `root`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink().is_relative_to(root):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def installer(root: Path) -> asyncio.subprocess.Process:
    """Start a process that installs the time server into `root` and prints its progress."""
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from tests.packages_fixture import pin_of, store_at

async def main():
    store = store_at(Path({str(root)!r}))
    pin = await pin_of(store, *{TIME!r})
    await store.install(pin, progress=lambda line: print(line, flush=True))

asyncio.run(main())
"""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
