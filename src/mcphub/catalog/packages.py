"""The package store: `npx` and `uvx` commands resolved once, pinned, read-only, then run directly.

A launcher costs two to three times the start-up and tens of megabytes per instance, and asks the
registry at every start what it should run today. Here a version is resolved once (`resolve`), an
administrator's word makes it the pin, and `install` builds it once for everybody:

    root/<ecosystem>/<name>@<version>-<digest>/   finished, read-only, world-readable
    root/<ecosystem>/.<name>@…/                   being built; worthless after a crash
    root/locks/<ecosystem>/<name>@…               the dependency tree as first resolved
    root/cache/                                   of the installers

Finished directories appear by one rename. Concurrent installers, also of other processes, are
serialised by a file lock per package. Installing runs no code of a package; a native part that is missing
then is built in a sandbox (`native`), and no other script is run.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from mcphub.catalog import launchers, npm, pypi
from mcphub.catalog.launchers import NPM, Requirement
from mcphub.catalog.native import RunBuild
from mcphub.catalog.npm import Npm
from mcphub.catalog.pins import Pin
from mcphub.catalog.pypi import Pypi
from mcphub.catalog.toolchain import Toolchain, is_system, tool_environment
from mcphub.errors import InvalidInput, Unavailable
from mcphub.ids import Clock, system_clock

_log = structlog.get_logger()

_FORMAT = 2  # of the directory; a change makes every package be installed anew
_MANIFEST = "mcphub-package.json"
_LOCK_WAIT_S = 4500.0  # the longest build of a native part, and a slow download
_LOCK_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Installed:
    """A package that can be run.

    Attributes:
        argv: Program and script, absolute; the server's own arguments follow.
        readable: Directories that must be visible besides /usr, at the same place.
        version: Exact version.
        source: Directory of the package's own files, without its dependencies where it has one of its name;
            None when it has none.
    """

    argv: tuple[str, ...]
    readable: tuple[Path, ...]
    version: str
    source: Path | None = None


def is_installation(place: Path) -> bool:
    """Tell whether a directory is one that the package store has made."""
    return (place / _MANIFEST).is_file()


def _silent(_: str) -> None:
    """Take a progress line and drop it."""


class PackageStore:
    """Installs pinned packages under `root` and says how they are run.

    Holds no state but its paths: any number of stores, in any number of processes, may share a
    root. `environment` is where the installers' registry settings are taken from; `runs` runs builds of
    native parts, and without it packages that need one are refused.
    """

    def __init__(
        self,
        root: Path,
        toolchain: Toolchain,
        environment: Mapping[str, str],
        clock: Clock = system_clock,
        runs: RunBuild | None = None,
    ) -> None:
        self._root = Path(os.path.abspath(root)).resolve()  # noqa: PTH100  may not exist yet
        self._clock = clock
        env = tool_environment(environment, self._root / "cache")
        self._npm = Npm(toolchain, env, runs)
        self._pypi = Pypi(toolchain, env)

    @staticmethod
    def requirement(command: str, args: Sequence[str]) -> Requirement | None:
        """Return what a command of the settings asks for; None if it is no launcher.

        Raises:
            InvalidInput: It is a launcher, but not one of the understood forms.
        """
        return launchers.requirement(command, args)

    async def resolve(self, requirement: Requirement, constraints: tuple[str, ...] = ()) -> Pin:
        """Ask the registry for the exact version and hash, and keep the dependency tree.

        A tree that is already kept for the same version, hash and constraints stays as it is.

        Args:
            requirement: What the settings ask for.
            constraints: What the dependencies of a PyPI package are held to.

        Raises:
            InvalidInput: No such package or version, or it does not fit this hub's Python.
            Unavailable: The registry or the tool cannot be used now.
            UpstreamFailed: The tool failed for another reason.
        """
        with self._scratch() as work:
            if requirement.ecosystem == NPM:
                pin = await self._npm.resolve(requirement, work, self._clock())
            else:
                pin = await self._pypi.resolve(requirement, work, self._clock(), constraints)
            self._keep_lock(pin, work)
        _log.info("package_resolved", package=pin.name, version=pin.version)
        return pin

    async def install(
        self,
        pin: Pin,
        requirement: Requirement | None = None,
        progress: Callable[[str], None] = _silent,
    ) -> Installed:
        """Install `pin` unless it is there, and return how to run it.

        Args:
            pin: What to install.
            requirement: Names the program to run; the package's own choice when not given.
            progress: Called with one line per stage.

        Raises:
            InvalidInput: The package has to be built, which cannot be done here (code
                `native_build`), or lacks the program.
            Unavailable: The registry or the tool cannot be used now.
            UpstreamFailed: The tool failed, or the registry's package is not what was pinned
                (code `integrity_mismatch`).
        """
        if found := self.installed(pin, requirement):
            return found
        final = self._place(pin)
        await asyncio.to_thread(_make_directories, self._root, final.parent)
        async with _file_lock(final.with_name(f".{final.name}.lock"), progress):
            manifest = self._manifest(pin)
            if manifest is None:
                manifest = await self._build(pin, final, progress)
        return self._described(pin, requirement, manifest)

    def installed(self, pin: Pin, requirement: Requirement | None = None) -> Installed | None:
        """Return how to run `pin` if it is installed; no network, no process, one small file.

        Raises:
            InvalidInput: It is installed and has no such program.
        """
        manifest = self._manifest(pin)
        return None if manifest is None else self._described(pin, requirement, manifest)

    def _tool(self, ecosystem: str) -> Npm | Pypi:
        return self._npm if ecosystem == NPM else self._pypi

    @staticmethod
    def _lock_files(ecosystem: str) -> tuple[str, ...]:
        return ("package.json", npm.LOCK) if ecosystem == NPM else (pypi.LOCK,)

    def _place(self, pin: Pin) -> Path:
        """Return the final directory: readable for people, unique by digest, safe as one name."""
        parts = [_FORMAT, pin.ecosystem, pin.name, pin.version, pin.integrity, pin.extras]
        exact = json.dumps([*parts, pin.constraints] if pin.constraints else parts)
        digest = hashlib.sha256(exact.encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.@+-]", "+", f"{pin.name}@{pin.version}").lstrip(".")[:120]
        return self._root / ("npm" if pin.ecosystem == NPM else "pypi") / f"{name}-{digest}"

    def _kept_lock(self, pin: Pin) -> Path:
        """Return the marker of a completely written lock; its files have their name appended."""
        final = self._place(pin)
        return self._root / "locks" / final.parent.name / final.name

    def _keep_lock(self, pin: Pin, work: Path) -> None:
        kept = self._kept_lock(pin)
        if kept.exists():
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        for name in self._lock_files(pin.ecosystem):
            _write_atomically(kept.with_name(f"{kept.name}.{name}"), (work / name).read_bytes())
        _write_atomically(kept, b"")

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        _make_directories(self._root)
        with tempfile.TemporaryDirectory(prefix=".resolve-", dir=self._root) as work:
            yield Path(work)

    async def _build(
        self, pin: Pin, final: Path, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        """Build `pin` beside `final` and rename it into place. The caller holds the package's lock."""
        _log.info("package_install_started", package=pin.name, version=pin.version)
        await asyncio.to_thread(_discard_leftovers, final)
        work = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
        try:
            manifest = await self._fill(pin, work, progress)
            await asyncio.to_thread(_publish, work, final)
        except Exception:
            # After a cancellation or a crash the next installation of the package does this.
            await asyncio.to_thread(_discard_leftovers, final)
            raise
        _log.info("package_installed", package=pin.name, version=pin.version)
        return manifest

    async def _fill(self, pin: Pin, work: Path, progress: Callable[[str], None]) -> dict[str, Any]:
        kept = self._kept_lock(pin)
        if kept.exists():
            for name in self._lock_files(pin.ecosystem):
                shutil.copyfile(kept.with_name(f"{kept.name}.{name}"), work / name)
        built = await self._tool(pin.ecosystem).build(pin, work, progress)
        self._keep_lock(pin, work)
        manifest = {"format": _FORMAT, "pin": _identity(pin), **built}
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        progress(f"Sealing {pin.name} {pin.version}")
        return manifest

    def _manifest(self, pin: Pin) -> dict[str, Any] | None:
        """Return the manifest of an installation that can run here; None if there is none."""
        place = self._place(pin)
        try:
            manifest = json.loads((place / _MANIFEST).read_bytes())
        except (OSError, ValueError):
            return None
        if manifest.get("format") != _FORMAT or manifest.get("pin") != _identity(pin):
            return None
        # The interpreter that the environment was made with may have been removed since.
        present = all(Path(path).exists() for path in manifest.get("readable", []))
        if pin.ecosystem == NPM:
            runs = self._npm.fits(manifest)
        else:
            runs = (place / "venv" / "bin" / "python").exists()
        return manifest if present and runs else None

    def _described(
        self, pin: Pin, requirement: Requirement | None, manifest: Mapping[str, Any]
    ) -> Installed:
        place = self._place(pin)
        bins: Mapping[str, list[str]] = manifest["bins"]
        wanted = (requirement.bin if requirement else "") or manifest["default"]
        if wanted not in bins:
            raise InvalidInput(
                f"{pin.name} {pin.version} has no program `{wanted or pin.name}`.",
                hint=f"Its programs, with those of its dependencies: "
                f"{', '.join(sorted(bins)[:20]) or 'none'}. The launcher's way to name one: "
                f"`uvx --from {pin.name} PROGRAM`, `npx -p {pin.name} PROGRAM`.",
            )
        kind, script, *flags = bins[wanted]
        readable = [place, *(Path(path) for path in manifest.get("readable", []))]
        if kind == "node":
            node = self._npm.node()
            if not is_system(node):
                readable.append(node.parent)
            argv = (str(node), *flags, str(place / script))
        elif kind == "python":
            argv = (str(place / "venv" / "bin" / "python"), str(place / script))
        elif kind == "native":
            argv = (str(place / script),)
        else:
            raise InvalidInput(
                f"Program `{wanted}` of {pin.name} needs `{kind}`, which the hub does not provide.",
                hint="Install the server yourself and give the program's absolute path.",
            )
        return Installed(argv, tuple(readable), pin.version, source_of(place, pin.name))


def source_of(place: Path, name: str) -> Path | None:
    """Return the directory with a package's own files; with all modules, where none has its name."""
    module = re.sub(r"[-.]+", "_", name)
    for candidate in (
        place / "node_modules" / name,
        *place.glob(f"venv/lib/python3*/site-packages/{_literal(module)}"),
        *place.glob("venv/lib/python3*/site-packages"),
    ):
        if candidate.is_dir():
            return candidate
    return None


def _identity(pin: Pin) -> dict[str, Any]:
    values = asdict(pin)
    del values["resolved_at"]
    values["extras"] = list(pin.extras)
    values["constraints"] = list(pin.constraints)
    if not pin.constraints:
        del values["constraints"]
    return values


def _make_directories(root: Path, *below: Path) -> None:
    """Create the store's directories: traversable by the instances' uids, the cache private."""
    for directory in (root, *below):
        directory.mkdir(parents=True, exist_ok=True)
        if stat.S_IMODE(directory.stat().st_mode) != 0o755:
            directory.chmod(0o755)
    (root / "cache").mkdir(mode=0o700, exist_ok=True)


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there completely or not at all; the last of two writers wins."""
    descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    Path(name).replace(path)


def _publish(work: Path, final: Path) -> None:
    """Make `work` read-only and give it its final name. Blocking."""
    own = os.geteuid() == 0
    for directory, _, files in os.walk(work, topdown=False):
        here = Path(directory)
        for name in files:
            path = here / name
            if own:
                os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o555 if path.stat().st_mode & 0o111 else 0o444)
        if own:
            os.chown(here, 0, 0)
        here.chmod(0o555)
    os.sync()  # a power cut must not leave a finished name in front of empty files
    if final.exists():  # unusable, or _build would not have been called
        final.rename(final.with_name(f".{final.name}.old-{work.name.rpartition('.')[2]}"))
    work.rename(final)
    _discard_leftovers(final)


def _discard_leftovers(final: Path) -> None:
    """Remove what a crashed installation of `final` left. Its lock must be held. Blocking."""
    for path in final.parent.glob(f".{_literal(final.name)}.*"):
        if path.is_dir():
            _remove_tree(path)


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _remove_tree(path: Path) -> None:
    """Remove a tree although its directories are read-only."""
    for directory, _, _ in os.walk(path):
        Path(directory).chmod(0o700)
    shutil.rmtree(path)


@contextlib.asynccontextmanager
async def _file_lock(path: Path, progress: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold an exclusive lock on `path` across processes; the kernel drops it when we die.

    Raises:
        Unavailable: Another installer held it for too long.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        await _acquire(descriptor, progress)
        yield
    finally:
        os.close(descriptor)


async def _acquire(descriptor: int, progress: Callable[[str], None]) -> None:
    """Poll for the lock: a blocking flock could not be cancelled."""
    told = False
    try:
        async with asyncio.timeout(_LOCK_WAIT_S):
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
                if not told:
                    progress("Waiting for another installation of the same package")
                    told = True
                await asyncio.sleep(_LOCK_POLL_S)
    except TimeoutError as error:
        raise Unavailable(
            "Another installation of the same package does not end.",
            hint="Look for a hanging npm or uv process of the hub.",
            retry_after_s=60.0,
        ) from error
