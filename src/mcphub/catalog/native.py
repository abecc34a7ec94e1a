"""Native parts of npm packages: which ones are missing, how they are built, what is taken of the result.

Installing runs no code of a package, so a package whose install script compiles something lacks it
afterwards. Exactly these packages are built here, one after the other, by `npm rebuild` in a sandbox.
This layer cannot make one: whoever makes the store passes in what runs a `NativeBuild`
(`spawn.native`). The result is untrusted: of the package's own directory plain files are copied, and
nothing else that the build wrote counts.
"""

import asyncio
import json
import os
import re
import shutil
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcphub.catalog.toolchain import Toolchain, is_system, run
from mcphub.errors import InvalidInput, UpstreamFailed

LOCK: Final = "package-lock.json"
CODE: Final = "native_build"
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_NATIVE: Final = re.compile(r"node-gyp|prebuild|node-pre-gyp|cmake-js|napi")
_ABI: Final = re.compile(r"^#define NODE_MODULE_VERSION (\d+)", re.MULTILINE)
_MACHINES: Final = {"x86_64": "x64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}
# What the compiler needs, and the Debian package that has it.
_TOOLS: Final = {"make": "make", "cc": "gcc", "g++": "g++", "python3": "python3"}
# Left beside the result by node-gyp; of no use to a program that runs.
_INTERMEDIATE: Final = frozenset({"obj.target", ".deps", "node_gyp_bins"})
_MANIFEST: Final = "package.json"
_MOST_BYTES: Final = 512 * 1024 * 1024
_MOST_FILES: Final = 50_000
_DEEPEST: Final = 64  # whoever removes or copies a tree again may do so recursively
_DISCARD_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class NativeBuild:
    """One package to build.

    Attributes:
        label: What to call it in messages: `sqlite3 5.1.7`.
        tree: The installation that is being made; the build may read it.
        package: The package's directory in `tree`; the build writes into a copy of it.
        scratch: Empty directory of the installer, 0700; home and copy are made in here.
        argv: Program and arguments; the program is an absolute path.
        env: Environment; holds nothing of anybody.
        readable: Paths to show besides `/usr` and `tree`.
    """

    label: str
    tree: Path
    package: Path
    scratch: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    readable: tuple[Path, ...] = ()


RunBuild = Callable[[NativeBuild, Callable[[str], None]], Awaitable[Path]]
"""Runs a build to its end in a sandbox, telling progress; returns the directory with the result.

Raises InvalidInput where this machine has no sandbox that is good enough, and UpstreamFailed with the
last lines of the build's output when it fails; both with the code `native_build`.
"""


def abi(node: Path) -> str:
    """Return the number of Node's binary interface, from its headers; empty where there are none."""
    file = _headers(node) / "node_version.h"
    found = _ABI.findall(file.read_text()) if file.is_file() else []
    return found[-1] if found else ""


def unbuilt(work: Path, note: Callable[[str], None]) -> list[str]:
    """Return the packages that lack their native part, as paths below `work`.

    Optional packages may stay without. `note` is called for each other package with a script.
    """
    found: list[str] = []
    for path, entry in _packages(work):
        if not path or entry.get("optional"):
            continue
        if _lacks_build(work / path, work):
            found.append(path)
        elif entry.get("hasInstallScript"):
            note(f"Note: the install script of {_name(path)} was not run")
    return found


def refusal(label: str, path: str) -> InvalidInput:
    """Return the error where nothing can run a build."""
    return InvalidInput(
        f"npm package {label} needs {_name(path)}, which builds native code by an install script; "
        "outside of a sandbox none is run.",
        hint="Use another server, or install this one yourself and give the program's absolute "
        "path as command and its directory in sandbox.readable.",
        code=CODE,
    )


async def build(
    work: Path,
    paths: Sequence[str],
    toolchain: Toolchain,
    npm: Sequence[str],
    runs: RunBuild,
    progress: Callable[[str], None],
) -> None:
    """Build the packages at `paths` below `work`, in place.

    Args:
        work: The installation; nobody else writes to it.
        paths: As `unbuilt` gives them.
        toolchain: Its Node is the one that will run the result.
        npm: Command that is npm.
        runs: Runs each build.
        progress: Told what is being done.

    Raises:
        InvalidInput: This machine cannot build; the hint names what to install.
        UpstreamFailed: A build failed, or made nothing that can be used.
    """
    node = toolchain.node
    assert node is not None  # npm runs on it
    versions = {path: str(entry.get("version", "")) for path, entry in _packages(work)}
    labels = {path: f"{_name(path)} {versions[path]}".strip() for path in paths}
    env = {"PATH": _PATH if is_system(node) else f"{node.parent}:{_PATH}"}
    env |= _settings(node, ", ".join(labels.values()))
    shown = [node.parent, _headers(node), *(_package_of(Path(word)) for word in npm)]
    readable = tuple(place for place in shown if not is_system(place))
    await asyncio.to_thread(_make_readable, work)
    for path, label in labels.items():
        progress(f"Building {label} in the sandbox; this may take minutes")
        scratch = work.with_name(f"{work.name}.build")
        await _discard(scratch, toolchain)
        scratch.mkdir(mode=0o700)
        package = work / path
        options = ("--ignore-scripts=false", "--foreground-scripts", "--bin-links=false")
        argv = (*npm, "rebuild", *options, str(package))
        try:
            made = await runs(
                NativeBuild(label, work, package, scratch, argv, env, readable), progress
            )
            await asyncio.to_thread(_take, made, package, label)
        finally:
            await _discard(scratch, toolchain)
        if _lacks_build(package, work):
            raise UpstreamFailed(
                f"The install script of {label} ended without an error, but built nothing.",
                hint="Use another version of the server.",
                code=CODE,
            )


def _packages(work: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (path below `work`, entry) of every package of the lock."""
    lock = json.loads((work / LOCK).read_text())
    yield from lock["packages"].items()


def _name(path: str) -> str:
    return path.rpartition("node_modules/")[2]


def _lacks_build(directory: Path, work: Path) -> bool:
    """Tell whether a package compiles something at installation that is not there.

    npm compiles a `binding.gyp` also where no script says so (`gypfile`), and no lock tells that.
    """
    file = directory / _MANIFEST
    if not file.is_file():
        return False
    manifest = json.loads(file.read_text())
    scripts = manifest.get("scripts") or {}
    text = " ".join(str(scripts.get(name, "")) for name in ("preinstall", "install", "postinstall"))
    gyp = (directory / "binding.gyp").exists() and manifest.get("gypfile") is not False
    if not gyp and not _NATIVE.search(text):
        return False
    return not _has_module(directory) and not any(
        "linux" in name and _has_module(base / "node_modules" / name)
        for name in manifest.get("optionalDependencies") or {}  # ready-made, one for each platform
        for base in (directory, *directory.parents)
        if base.is_relative_to(work)
    )


def _has_module(directory: Path) -> bool:
    return any(_is_for_here(path.relative_to(directory)) for path in directory.rglob("*.node"))


def _is_for_here(module: Path) -> bool:
    """Tell whether a compiled module is the package's own, and for this kind of machine."""
    *directories, _ = module.parts
    if "node_modules" in directories:
        return False
    if "prebuilds" not in directories[:-1]:
        return True
    # `prebuilds/<platform>-<architectures>/`, as node-gyp-build looks for them
    platform, _, machines = directories[directories.index("prebuilds") + 1].partition("-")
    machine = _MACHINES.get(os.uname().machine, os.uname().machine)
    return platform == "linux" and machine in re.split(r"[-+]", machines)


def _headers(node: Path) -> Path:
    """Return where the headers of a Node are that has any: beside the program."""
    return node.parent.parent / "include" / "node"


def _settings(node: Path, what: str) -> dict[str, str]:
    """Return the environment that makes npm and node-gyp build offline, with the machine's tools.

    Raises:
        InvalidInput: This machine lacks a tool or the headers.
    """
    missing = [package for tool, package in _TOOLS.items() if not _is_shown(tool)]
    headers = (_headers(node) / "node.h").is_file()
    debians = node.parent == Path("/usr/bin")
    if missing or not headers:
        missing += [] if headers or not debians else ["libnode-dev"]
        steps = [f"apt-get install {' '.join(missing)}"] if missing else []
        steps += [] if headers or debians else ["install a Node.js that has include/node"]
        raise InvalidInput(
            f"{what} has to be compiled on this machine, which lacks what that needs.",
            hint=f"An administrator does this: {'; '.join(steps)}. Then try again.",
            code=CODE,
        )
    return {
        "JOBS": str(max(1, (os.cpu_count() or 1) // 2)),
        "npm_config_nodedir": str(node.parent.parent),
        "npm_config_build_from_source": "true",
        "npm_config_offline": "true",
        "npm_config_update_notifier": "false",
        "npm_config_logs_max": "0",
        # for newer versions of npm; only what is named on the command line is run at all
        "npm_config_dangerously_allow_all_scripts": "true",
    }


def _is_shown(tool: str) -> bool:
    """Tell whether a sandbox finds a program: instances see `/usr` and nothing that it links to."""
    for folder in _PATH.split(":"):
        found = Path(folder, tool)
        if os.access(found, os.X_OK) and is_system(found.resolve()):
            return True
    return False


def _package_of(program: Path) -> Path:
    """Return what must be readable for a program: of npm's entry file all of npm, else itself."""
    return program.parents[1] if program.suffix in (".js", ".cjs") else program


def _make_readable(work: Path) -> None:
    """Let the sandbox's uid read an installation, whatever the umask was. Blocking."""
    for directory, _, files in os.walk(work):
        here = Path(directory)
        here.chmod(stat.S_IMODE(here.stat().st_mode) | 0o555)
        for path in (here / name for name in files):
            if not path.is_symlink():
                path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o444)


def _take(made: Path, package: Path, label: str) -> None:
    """Put what was built in the package's place: new files of ours with its content. Blocking.

    Raises:
        UpstreamFailed: It is too large, or made so that it cannot be copied.
    """
    fresh = package.with_name(f".{package.name}.built")
    try:
        if not _copy(made, fresh):
            raise UpstreamFailed(
                f"What the build of {label} made is too large "
                f"(at most {_MOST_BYTES // 1024**2} MiB, {_MOST_FILES} files, {_DEEPEST} levels).",
                hint="Use another server, or install this one yourself.",
                code=CODE,
            )
        shutil.copyfile(package / _MANIFEST, fresh / _MANIFEST)  # as pinned, whatever the build did
        shutil.rmtree(package)
        fresh.rename(package)
    except OSError as error:  # names too long, files unreadable, disk full
        raise UpstreamFailed(
            f"What the build of {label} made cannot be taken over ({type(error).__name__}).",
            hint="Check the free space of the hub's directory; else use another server.",
            code=CODE,
        ) from None


def _copy(made: Path, fresh: Path) -> bool:
    """Copy plain files and links that stay inside, with content and the right to execute only.

    No mode, owner, ACL or capability that the build set is taken over. Sizes count, not blocks: holes
    and hard links become real in a copy. Returns False where it is too large.
    """
    root = made.resolve()
    size, count = 0, 0
    for directory, names, files in os.walk(made, onerror=_raise):
        here = Path(directory)
        inside = here.relative_to(made)
        if len(inside.parts) > _DEEPEST:
            return False
        there = fresh / inside
        there.mkdir()
        links = [name for name in names if (here / name).is_symlink()]
        names[:] = [name for name in names if name not in links and name not in _INTERMEDIATE]
        for name in (*links, *files):
            source, target = here / name, there / name
            found = source.lstat()
            count, size = count + 1, size + found.st_size
            if size > _MOST_BYTES or count > _MOST_FILES:
                return False
            if stat.S_ISLNK(found.st_mode):
                if _leads_inside(source, root):
                    target.symlink_to(source.readlink())
            elif stat.S_ISREG(found.st_mode) and target != fresh / _MANIFEST:
                shutil.copyfile(source, target, follow_symlinks=False)
                target.chmod(0o755 if found.st_mode & 0o111 else 0o644)
        count += len(names)
    return True


def _leads_inside(link: Path, root: Path) -> bool:
    inside = Path(os.path.realpath(link)).is_relative_to(root)
    return inside and not link.readlink().is_absolute() and link != root / _MANIFEST


def _raise(error: OSError) -> None:
    raise error


async def _discard(scratch: Path, toolchain: Toolchain) -> None:
    """Remove what a build left, of any depth and form."""
    argv = ("/bin/rm", "-rf", "--", str(scratch))
    await run(toolchain, argv, cwd=scratch.parent, env={}, timeout_s=_DISCARD_S)
