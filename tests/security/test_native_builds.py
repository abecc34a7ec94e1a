"""The install script of a package, built in the sandbox: what it tries, and what is left of it.

The packages are the tests' own and hostile; store, npm, sandbox and sealing are the real ones.
"""

import json
import os
import shutil
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.registry import Published, registry

from mcphub.catalog import native
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.pins import Pin
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import InvalidInput, UpstreamFailed
from mcphub.spawn.native import SandboxedBuilds

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]

TOKEN = "registry-token-4711"
MAKE = "fs.mkdirSync('build/Release', {recursive: true}); fs.writeFileSync('build/Release/x.node', '');"
HOLES = """
const fs = require('fs');
for (let i = 0; i < 8; i++) { fs.writeFileSync('f' + i, ''); fs.truncateSync('f' + i, 1e8) }
"""
DEEP = "for (let i = 0; i < 3000; i++) { require('fs').mkdirSync('d'); process.chdir('d') }"
# Tries everything, tells what happened in a file that is kept with the package.
HOSTILE = (
    """
const fs = require('fs'), net = require('net'), path = require('path');
const {secrets, port} = JSON.parse(fs.readFileSync('targets.json'));
const told = {};
const attempt = (name, work) => {
  try { work(); told[name] = 'done' } catch (error) { told[name] = error.code || String(error) }
};
const tree = path.resolve('../..');
secrets.forEach((file, index) => attempt('read ' + index, () => fs.readFileSync(file)));
attempt('list home', () => { told.home = fs.readdirSync(process.env.HOME) });
attempt('other package', () => fs.writeFileSync('../victim/index.js', 'stolen'));
attempt('new package', () => fs.mkdirSync('../planted'));
attempt('manifest', () => fs.writeFileSync(tree + '/mcphub-package.json', '{}'));
attempt('lock', () => fs.writeFileSync(tree + '/package-lock.json', '{}'));
attempt('usr', () => fs.writeFileSync('/usr/mcphub-was-here', ''));
attempt('setuid', () => { fs.writeFileSync('suid', ''); fs.chmodSync('suid', 0o6777) });
for (const [name, target] of [['shadow', '/etc/shadow'], ['out', '../../..'], ['self', '.'],
                              ['sideways', 'self/../../victim'], ['near', 'index.js']])
  attempt('link ' + name, () => fs.symlinkSync(target, name));
attempt('own manifest', () => { fs.unlinkSync('package.json'); fs.symlinkSync('/etc/shadow', 'package.json') });
attempt('open to all', () => { fs.mkdirSync('open'); fs.chmodSync('open', 0o7777) });
attempt('fifo', () => require('child_process').execFileSync('/usr/bin/mkfifo', ['fifo']));
told.environment = process.env;
told.uid = Number(/^Uid:\\s+(\\d+)/m.exec(fs.readFileSync('/proc/self/status'))[1]);
told.processes = fs.readdirSync('/proc').filter(name => /^\\d+$/.test(name)).length;
told.interfaces = Object.keys(require('os').networkInterfaces());
"""
    + MAKE
    + """
const socket = net.connect(port, '127.0.0.1');
const end = what => { told.network = what; fs.writeFileSync('told.json', JSON.stringify(told)) };
socket.on('connect', () => { end('connected'); socket.destroy() });
socket.on('error', error => end(error.code));
"""
)


def package(name: str, install: str, **more: Any) -> Published:
    """Return a package with a native part that `install.js` makes."""
    manifest = {
        "name": name,
        "version": "1.0.0",
        "main": "index.js",
        "scripts": {"install": "node install.js"},
    }
    files = {"install.js": install, "index.js": "", "binding.gyp": "{}"}
    return Published(manifest | more.pop("manifest", {}), files | more)


@dataclass(frozen=True, slots=True)
class Stage:
    """A place for a store.

    Attributes:
        root: Of the store.
        secrets: Files that no build may read: one of the hub, one of a user, one that is world-readable.
        listener: A service of the machine.
    """

    root: Path
    secrets: list[Path]
    listener: socket.socket

    @property
    def targets(self) -> str:
        """What the hostile script reads."""
        port = self.listener.getsockname()[1]
        return json.dumps({"secrets": list(map(str, self.secrets)), "port": port})

    def store(self, address: str) -> PackageStore:
        """Return the store, fed by a registry."""
        env = {"npm_config_registry": address, "npm_config__authToken": TOKEN, "MCPHUB_KEY": TOKEN}
        return PackageStore(
            self.root,
            find_toolchain(os.environ["PATH"]),
            env,
            runs=SandboxedBuilds(200_000),
        )


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    hub = tmp_path / "hub"
    files = [hub / "keys" / "vault", hub / "homes" / "u_anna" / "notes" / "x", hub / "open"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("secret")
        file.chmod(0o644)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Stage(hub / "packages", files, listener)


async def pinned(store: PackageStore, name: str) -> Pin:
    wanted = store.requirement("npx", ["-y", f"{name}@1.0.0"])
    assert wanted is not None
    return await store.resolve(wanted)


async def installed(store: PackageStore, name: str, progress: list[str]) -> Path:
    """Install a package without programs; returns its `node_modules`."""
    pin = await pinned(store, name)
    with pytest.raises(InvalidInput, match="has no program"):
        await store.install(pin, progress=progress.append)
    return store._place(pin) / "node_modules"


async def test_a_build_reaches_nothing_but_its_own_package_and_leaves_plain_files(
    stage: Stage,
) -> None:
    victim = Published({"name": "victim", "version": "1.0.0"}, {"index.js": "honest"})
    silent = package("silent", "require('fs').writeFileSync('../ran', '')", **{"pre.node": ""})
    dependencies = {"victim": "1.0.0", "silent": "1.0.0"}
    hostile = package(
        "hostile",
        HOSTILE,
        manifest={"dependencies": dependencies},
        **{"targets.json": stage.targets},
    )
    progress: list[str] = []
    with registry(victim, silent, hostile) as address:
        modules = await installed(stage.store(address), "hostile", progress)
    own = modules / "hostile"
    told = json.loads((own / "told.json").read_text())

    assert told["network"] in {"ECONNREFUSED", "ENETUNREACH"}
    stage.listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        stage.listener.accept()
    assert told["interfaces"] == ["lo"]
    refused = {"ENOENT", "EACCES", "EROFS", "EPERM"}
    for name in ("read 0", "read 1", "read 2", "other package", "new package"):
        assert told[name] in refused, name
    for name in ("manifest", "lock", "usr"):
        assert told[name] in refused, name
    assert TOKEN not in json.dumps(told)
    assert not any(name.startswith("MCPHUB") for name in told["environment"])
    assert str(stage.root.parent) not in json.dumps(told["home"])
    assert told["processes"] < 20
    assert told["uid"] != 0

    assert (modules / "victim" / "index.js").read_text() == "honest"
    assert not (modules / "ran").exists()
    assert any("script of silent was not run" in line for line in progress)
    assert any("Building hostile 1.0.0" in line for line in progress)
    assert not any((own / name).is_symlink() for name in ("shadow", "out", "sideways"))
    assert (own / "near").readlink() == Path("index.js")
    assert not (own / "fifo").exists()
    assert json.loads((own / "package.json").read_text())["name"] == "hostile"
    assert told["setuid"] == told["own manifest"] == told["open to all"] == "done"
    for path in (own, *own.rglob("*")):
        found = path.lstat()
        assert found.st_uid == os.geteuid(), path
        assert path.is_symlink() or stat.S_IMODE(found.st_mode) in {0o444, 0o555}, path
    assert [path.name for path in (stage.root / "npm").iterdir() if path.is_dir()] == [
        modules.parent.name
    ]


def tree(root: Path, install: str, **manifest: Any) -> Path:
    """Return an installation as npm leaves it without scripts, of one package `native`."""
    work = root / "work"
    published = package("native", install, manifest=manifest)
    directory = work / "node_modules" / "native"
    directory.mkdir(parents=True)
    for name, text in {"package.json": json.dumps(published.manifest), **published.files}.items():
        (directory / name).write_text(text)
    lock = {"packages": {"": {}, "node_modules/native": {"version": "1.0.0"}}}
    lock["packages"]["node_modules/native"]["hasInstallScript"] = True
    (work / native.LOCK).write_text(json.dumps(lock))
    (work / "package.json").write_text('{"private": true, "dependencies": {"native": "1.0.0"}}')
    return work


def names(directory: Path) -> list[str]:
    """Return what lies in a directory."""
    return [path.name for path in directory.iterdir()]


async def build(work: Path, progress: list[str]) -> None:
    """Build what a tree lacks, as the store does."""
    toolchain = find_toolchain(os.environ["PATH"])
    npm = (str(toolchain.node), str(toolchain.npm))
    paths = native.unbuilt(work, progress.append)
    await native.build(work, paths, toolchain, npm, SandboxedBuilds(200_000), progress.append)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("console.log('x.c:1: error: no such thing'); process.exit(3)", "error: no such thing"),
        ("", "built nothing"),
        (HOLES, "too large"),
        (DEEP, "too large"),
    ],
    ids=["fails", "makes nothing", "holes that would fill the disk", "endless directories"],
)
async def test_a_build_that_makes_nothing_usable_is_told_and_leaves_nothing(
    tmp_path: Path, script: str, told: str
) -> None:
    work = tree(tmp_path, script)
    with pytest.raises(UpstreamFailed, match=told) as caught:
        await build(work, [])
    assert caught.value.code == "native_build"
    assert caught.value.hint
    assert str(tmp_path) not in str(caught.value)
    assert names(tmp_path) == ["work"]
    shutil.rmtree(work)  # as the store does; nothing in there may hinder it


async def test_a_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tree(tmp_path, MAKE)
    monkeypatch.setattr(native, "_PATH", str(tmp_path))
    with pytest.raises(InvalidInput) as caught:
        await build(work, [])
    assert caught.value.code == "native_build"
    assert "apt-get install make gcc g++ python3" in caught.value.hint


@pytest.mark.parametrize(
    ("file", "lacks"),
    [
        ("build/Release/x.node", False),
        ("prebuilds/linux-x64+arm64/node.napi.node", False),
        ("prebuilds/darwin-x64+arm64/node.napi.node", True),
        ("node_modules/other/build/Release/x.node", True),
        ("../native-linux-x64/x.node", False),
        ("../native-darwin-x64/x.node", True),
    ],
)
def test_only_a_module_for_this_machine_makes_a_build_unnecessary(
    tmp_path: Path, file: str, lacks: bool
) -> None:
    work = tree(
        tmp_path, MAKE, optionalDependencies={"native-linux-x64": "1", "native-darwin-x64": "1"}
    )
    module = work / "node_modules" / "native" / file
    module.parent.mkdir(parents=True)
    module.touch()
    assert native.unbuilt(work, lambda _: None) == (["node_modules/native"] if lacks else [])


@pytest.mark.parametrize(("manifest", "builds"), [({}, True), ({"gypfile": False}, False)])
def test_npms_silent_rule_for_binding_gyp_counts(
    tmp_path: Path, manifest: dict[str, Any], builds: bool
) -> None:
    work = tree(tmp_path, "", scripts={}, **manifest)
    lock = work / native.LOCK
    lock.write_text(lock.read_text().replace("hasInstallScript", "other"))
    assert native.unbuilt(work, lambda _: None) == (["node_modules/native"] if builds else [])
