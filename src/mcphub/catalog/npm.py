"""npm packages: resolve to a lock, install from it without running any code of the packages.

What lacks its native part then is built in a sandbox (`native`), where there is one.

Blocking file work is small here (a lock file, some package.json); sealing and moving the finished
directory is the store's business.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mcphub.catalog import native
from mcphub.catalog.launchers import NPM, Requirement, packages_of
from mcphub.catalog.native import LOCK, RunBuild
from mcphub.catalog.pins import Pin
from mcphub.catalog.toolchain import Completed, Toolchain, failure, run
from mcphub.errors import HubError, Unavailable, UpstreamFailed

_RESOLVE_S = 180.0
_INSTALL_S = 600.0
_OPTIONS = (
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--omit=dev",
    "--no-global",
    "--omit-lockfile-registry-resolved",
    "--install-links=false",
    "--json",
)
# Of npm's words for what is missing: `… found for NAME@RANGE.`, `… GET https://registry/NAME`
_SUBJECT = re.compile(
    r"\bfound for (?P<tag>(?:@[^/\s]+/)?[^@\s]+)@"
    r"|\bGET \S+?/(?P<page>(?:@[^/\s]+(?:/|%2f))?[^/\s]+)(?!\S)",
    re.IGNORECASE,
)
_SHEBANG = re.compile(
    r"#!\s*(?:\S*/env\s+(?:-S\s+)?)?(?:\S*/)?(?P<program>[\w.-]+)(?P<flags>[^\n]*)"
)


@dataclass(frozen=True, slots=True)
class Npm:
    """npm with its environment; None of its state is between calls.

    Attributes:
        toolchain: Where Node and npm are.
        env: Environment of npm.
        runs: Runs builds of native parts; None refuses packages that need one.
    """

    toolchain: Toolchain
    env: Mapping[str, str]
    runs: RunBuild | None = None

    def node(self) -> Path:
        """Return Node's program.

        Raises:
            Unavailable: There is no Node.js of a usable version.
        """
        if self.toolchain.node is None or self.toolchain.npm is None:
            raise Unavailable(
                "This hub has no Node.js 20 or newer, so packages of npm cannot be used.",
                hint="An administrator installs Node.js, or the extra `node` of the hub; `mcphub doctor` says how.",
                retry_after_s=60.0,
            )
        return self.toolchain.node

    async def resolve(self, requirement: Requirement, work: Path, resolved_at: float) -> Pin:
        """Resolve the whole tree into `work/package-lock.json`, and return the top package's pin."""
        what = f"Resolving npm package {requirement.name}"
        wanted = {requirement.name: requirement.version or "latest"}
        await self._lock_tree(wanted | _dependencies(requirement.extras), work, what)
        entry = _locked(work, requirement.name)
        version, integrity = str(entry.get("version", "")), str(entry.get("integrity", ""))
        if not version or not integrity.startswith("sha512-"):
            raise UpstreamFailed(
                f"The registry gave no sha512 hash for npm package {requirement.name}.",
                hint="Only packages with a verifiable hash are installed.",
            )
        _fix(work, requirement.name, version)
        return Pin(NPM, requirement.name, version, integrity, requirement.extras, resolved_at)

    async def build(self, pin: Pin, work: Path, progress: Callable[[str], None]) -> dict[str, Any]:
        """Install `pin` into `work`, from the lock there if there is one; return the programs.

        Raises:
            UpstreamFailed: npm failed, or what the registry offers is not what was pinned.
            InvalidInput: A package needs a build, which cannot be done here (code `native_build`).
        """
        label = f"{pin.name}@{pin.version}"
        what = f"Installing npm package {label}"
        if not (work / LOCK).exists():
            progress(f"Resolving {label} and its dependencies")
            wanted = {pin.name: pin.version} | _dependencies(pin.extras)
            await self._lock_tree(wanted, work, what)
            _fix(work, pin.name, pin.version)
        if _locked(work, pin.name).get("integrity") != pin.integrity:
            raise UpstreamFailed(
                f"npm package {label} is not what was pinned: its hash differs.",
                hint="Somebody changed the package or the pin. Look at it, then pin it again: "
                "mcphub server pin",
                code="integrity_mismatch",
            )
        _drop_absent(work)
        progress(f"Downloading {label} and its dependencies")
        done = await self._npm(("ci", *_OPTIONS), work, _INSTALL_S)
        if done.status:
            raise _failure(what, [pin.name], done)
        native_parts = await self._build_native(work, label, progress)
        names = [pin.name, *_dependencies(pin.extras)]
        bins = {name: entry for package in reversed(names) for name, entry in _bins(work, package)}
        default = _default(pin.name, dict(_bins(work, pin.name)))
        return {"bins": bins, "default": default, **native_parts}

    def fits(self, manifest: Mapping[str, Any]) -> bool:
        """Tell whether the native parts of an installation are for the Node that would run it."""
        if "native" not in manifest or self.toolchain.node is None:
            return True
        return native.abi(self.toolchain.node) in ("", manifest["native"]["abi"])

    async def _build_native(
        self, work: Path, label: str, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        """Build what lacks its native part; returns what the manifest says of it."""
        paths = native.unbuilt(work, progress)
        if not paths:
            return {}
        if self.runs is None:
            raise native.refusal(label, paths[0])
        await native.build(work, paths, self.toolchain, self._program(), self.runs, progress)
        return {"native": {"abi": native.abi(self.node()), "built": paths}}

    async def _lock_tree(self, wanted: Mapping[str, str], work: Path, what: str) -> None:
        _write(work / "package.json", {"private": True, "dependencies": dict(wanted)})
        done = await self._npm(("install", "--package-lock-only", *_OPTIONS), work, _RESOLVE_S)
        if done.status:
            raise _failure(what, list(wanted), done)

    async def _npm(self, args: tuple[str, ...], work: Path, timeout_s: float) -> Completed:
        argv = (*self._program(), *args)
        return await run(self.toolchain, argv, cwd=work, env=self.env, timeout_s=timeout_s)

    def _program(self) -> tuple[str, ...]:
        node = self.node()
        npm = self.toolchain.npm
        assert npm is not None  # node() checked it
        return (str(node), str(npm)) if npm.suffix in (".js", ".cjs") else (str(npm),)


def _dependencies(extras: tuple[str, ...]) -> dict[str, str]:
    """Return `name@spec` requirements as package.json wants them."""
    found: dict[str, str] = {}
    for extra in packages_of(extras):
        name, _, spec = extra[1:].partition("@")
        found[extra[0] + name] = spec or "latest"
    return found


def _locked(work: Path, name: str) -> Mapping[str, Any]:
    lock = json.loads((work / LOCK).read_text())
    return lock.get("packages", {}).get(f"node_modules/{name}", {})


def _fix(work: Path, name: str, version: str) -> None:
    """Write the exact version where package.json and the lock's root name a range."""
    package = json.loads((work / "package.json").read_text())
    package["dependencies"][name] = version
    _write(work / "package.json", package)
    lock = json.loads((work / LOCK).read_text())
    lock["packages"][""]["dependencies"][name] = version
    _write(work / LOCK, lock)


def _drop_absent(work: Path) -> None:
    """Take out of the lock what was optional and not to be had when the tree was resolved.

    npm leaves such packages out of the tree, most often programs for other platforms, and then refuses
    the lock because they are missing in it.
    """
    lock = json.loads((work / LOCK).read_text())
    packages: dict[str, dict[str, Any]] = lock.get("packages", {})
    for place, entry in packages.items():
        optional = entry.get("optionalDependencies", {})
        for name in [name for name in optional if not _finds(packages, place, name)]:
            del optional[name]
    _write(work / LOCK, lock)


def _finds(packages: Mapping[str, object], place: str, name: str) -> bool:
    """Tell whether the package at `place` of a lock finds another there, as Node looks for it."""
    while True:
        if f"{place}/node_modules/{name}".removeprefix("/") in packages:
            return True
        if not place:
            return False
        place = place.rpartition("node_modules/")[0].rstrip("/")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")


def _failure(what: str, wanted: Sequence[str], done: Completed) -> HubError:
    """Return the error for an npm that failed over `wanted` packages or something that they depend on."""
    reason, package = _reason(done), wanted[0]
    found = _SUBJECT.search(reason)
    subject = unquote(found["tag"] or found["page"]) if found else package
    if subject in wanted:
        return failure("npm", what, reason)
    return failure(
        "npm",
        what,
        reason,
        missing=f"{package} is there; {subject}, which it depends on, is not, or not in that version. "
        f"An older {package} may do: write {package}@VERSION into the server's settings.",
    )


def _reason(done: Completed) -> str:
    """Return npm's own summary, from its JSON answer or its last error line."""
    try:
        error = json.loads(done.stdout)["error"]
    except (ValueError, KeyError, TypeError):
        lines = [line for line in done.stderr.splitlines() if line.startswith("npm error")]
        told = [line for line in lines if "complete log" not in line and len(line.split()) > 3]
        return told[-1].removeprefix("npm error").strip() if told else f"status {done.status}"
    detail = str(error.get("summary") or error.get("detail") or "unknown error").splitlines()[0]
    return f"{error.get('code') or ''} {detail}".strip()


def _bins(work: Path, package: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each program of `package`: name, and [kind, path in `work`, flags of its interpreter…]."""
    directory = work / "node_modules" / package
    declared = json.loads((directory / "package.json").read_text()).get("bin") or {}
    if isinstance(declared, str):
        declared = {package.rpartition("/")[2]: declared}
    for name, relative in declared.items():
        script = (directory / str(relative)).resolve()
        if not script.is_relative_to(directory.resolve()):
            continue
        if not script.is_file() and script.with_name(script.name + ".js").is_file():
            script = script.with_name(script.name + ".js")
        if script.is_file():
            kind, flags = _interpreter(script)
            yield str(name), [kind, str(script.relative_to(work.resolve())), *flags]


def _interpreter(script: Path) -> tuple[str, list[str]]:
    """Tell what runs `script`: `node` with flags, `native`, or the name of something else."""
    with script.open("rb") as stream:
        head = stream.read(512)
    if head.startswith(b"\x7fELF"):
        return "native", []
    if not head.startswith(b"#!"):
        return "node", []
    found = _SHEBANG.match(head.decode(errors="replace"))
    if found is None:
        return "unknown", []
    return found["program"], found["flags"].split()


def _default(package: str, bins: Mapping[str, list[str]]) -> str:
    """Return the program that npx would take: the only one, or the one named like the package."""
    if len({entry[1] for entry in bins.values()}) == 1:
        return next(iter(bins))
    name = package.rpartition("/")[2]
    return name if name in bins else ""
