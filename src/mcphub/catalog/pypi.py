"""PyPI packages: resolve to a lock with hashes, install into a virtual environment, wheels only.

No code of a package runs during the installation: source distributions are refused, and bytecode
is compiled by the base interpreter, which does not read the environment's `.pth` files.
"""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from mcphub.catalog.launchers import PYPI, PYTHON_EXTRA, Requirement, packages_of, python_of
from mcphub.catalog.pins import Pin
from mcphub.catalog.toolchain import Completed, Toolchain, failure, is_system, run
from mcphub.errors import InvalidInput, UpstreamFailed

LOCK = "requirements.txt"
_RESOLVE_S = 180.0
_INSTALL_S = 600.0
_VENV = "venv"
_CONSTRAINTS = "constraints.txt"
_LOCKED = re.compile(r"^(?P<name>[\w.-]+)(?:\[[^\]]*\])?==(?P<version>[^\s;\\]+)(?P<rest>.*)$")
_NEEDS_PYTHON = re.compile(r"does not satisfy Python>=3\.(\d{1,2})")
_NEWEST_MINOR = 19
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_PREFIXES = (
    "import json, sys, sysconfig; p = sysconfig.get_path; "
    "print(json.dumps([sys.base_prefix, sys.base_exec_prefix, p('stdlib'), p('platstdlib')]))"
)


@dataclass(frozen=True, slots=True)
class Pypi:
    """uv with its environment; none of its state is between calls."""

    toolchain: Toolchain
    env: Mapping[str, str]

    async def resolve(
        self,
        requirement: Requirement,
        work: Path,
        resolved_at: float,
        constraints: tuple[str, ...] = (),
    ) -> Pin:
        """Resolve the whole tree into `work/requirements.txt`, and return the top package's pin."""
        what = f"Resolving PyPI package {requirement.name}"
        wanted = [requirement.name + requirement.version, *packages_of(requirement.extras)]
        try:
            await self._lock_tree(wanted, requirement.extras, constraints, work, what)
        except PythonTooOld as error:
            newer = "" if requirement.python else await self._newer(error.needs, work)
            if not newer:
                raise
            constraints = (*constraints, PYTHON_EXTRA + newer)
            await self._lock_tree(wanted, requirement.extras, constraints, work, what)
        version, hashes = _top((work / LOCK).read_text(), requirement.name)
        if not hashes:
            raise UpstreamFailed(
                f"The registry gave no sha256 hash for PyPI package {requirement.name}.",
                hint="Only packages with a verifiable hash are installed.",
            )
        integrity = " ".join(hashes)
        extras = requirement.extras
        return Pin(PYPI, requirement.name, version, integrity, extras, resolved_at, constraints)

    async def build(self, pin: Pin, work: Path, progress: Callable[[str], None]) -> dict[str, Any]:
        """Install `pin` into `work`, from the lock there if there is one; return the programs.

        Raises:
            UpstreamFailed: uv failed, or what the registry offers is not what was pinned.
            InvalidInput: The package has no wheel, or needs another Python.
        """
        label = f"{pin.name}=={pin.version}"
        what = f"Installing PyPI package {label}"
        if not (work / LOCK).exists():
            progress(f"Resolving {label} and its dependencies")
            wanted = [label, *packages_of(pin.extras)]
            await self._lock_tree(wanted, pin.extras, pin.constraints, work, what)
        lock = work / LOCK
        lock.write_text(_with_pinned_hashes(lock.read_text(), pin))
        python = await self._python((*pin.extras, *pin.constraints), work)
        progress(f"Downloading {label} and its dependencies")
        venv = ("venv", "--relocatable", "--no-project", "--python", str(python), _VENV)
        install = ("pip", "install", "--python", f"{_VENV}/bin/python", "--require-hashes")
        options = ("--link-mode=copy", "--no-build", "--no-deps", "-r", LOCK)
        for args in (venv, (*install, *options)):
            done = await self._uv(args, work, _INSTALL_S)
            if done.status:
                raise _install_failure(what, label, done)
        _name_real_interpreter(work / _VENV, python)
        progress(f"Compiling {label}")
        await self._compile(python, work)
        return {
            "bins": _bins(work),
            "default": _default(pin.name, work),
            "readable": [str(path) for path in await self._readable(python, work)],
        }

    async def _lock_tree(
        self,
        wanted: Sequence[str],
        extras: Sequence[str],
        constraints: Sequence[str],
        work: Path,
        what: str,
    ) -> None:
        (work / "requirements.in").write_text("\n".join(wanted) + "\n")
        held_to = packages_of(constraints)
        (work / _CONSTRAINTS).write_text("\n".join(held_to) + "\n")
        python = await self._python((*extras, *constraints), work)
        options = ("--generate-hashes", "--no-header", "--no-annotate", "--no-build", "--quiet")
        held = ("--constraints", _CONSTRAINTS) if held_to else ()
        args = ("pip", "compile", "requirements.in", "-o", LOCK, "--python", str(python))
        args = (*args, *held, *options)
        done = await self._uv(args, work, _RESOLVE_S)
        if done.status:
            raise _install_failure(what, wanted[0], done)

    async def _python(self, extras: Sequence[str], work: Path) -> Path:
        """Return the interpreter that `extras` ask for; the hub's own when they ask for none."""
        version = python_of(extras)
        if not version:
            return self.toolchain.python
        find = ("python", "find", "--system", "--no-project", "--no-python-downloads", version)
        done = await self._uv(find, work, 60.0)
        found = done.stdout.strip()
        if done.status or not found:
            raise InvalidInput(
                f"Python {version} is not installed on the hub.",
                hint=f"Install Python {version} and put it into the hub's PATH, or leave out "
                "`--python`. The hub downloads no interpreters.",
            )
        return await asyncio.to_thread(Path(found).resolve)

    async def _newer(self, needs: int, work: Path) -> str:
        """Return the oldest installed Python that is at least 3.`needs`, as `3.13`; empty for none."""
        for minor in range(needs, _NEWEST_MINOR + 1):
            with contextlib.suppress(InvalidInput):
                await self._python((f"{PYTHON_EXTRA}3.{minor}",), work)
                return f"3.{minor}"
        return ""

    async def _compile(self, python: Path, work: Path) -> None:
        """Write bytecode once: without it every start of the read-only package costs much more."""
        site = str(_site(work))
        await run(
            self.toolchain,
            (str(python), "-I", "-S", "-m", "compileall", "-qq", "-s", str(work), site),
            cwd=work,
            env=self.env,
            timeout_s=_INSTALL_S,
        )

    async def _readable(self, python: Path, work: Path) -> tuple[Path, ...]:
        """Return the directories of the interpreter outside /usr: its program's and its libraries'.

        Not the whole prefix: it may be a home directory (`~/.local`). No single files: a root hub
        cannot show a file below a closed directory.
        """
        done = await run(
            self.toolchain,
            (str(python), "-I", "-S", "-c", _PREFIXES),
            cwd=work,
            env=self.env,
            timeout_s=60.0,
        )
        if done.status:
            raise UpstreamFailed("The Python interpreter does not start.", hint="mcphub doctor")
        prefix, exec_prefix, *libraries = (Path(text) for text in json.loads(done.stdout))
        for base in (prefix, exec_prefix):
            libraries += [base / "lib", base / "lib64"]
        real = {path.resolve() for path in libraries if path.exists()} | {python.parent}
        outside = sorted(path for path in real if not is_system(path))
        return tuple(
            path for path in outside if not any(other in path.parents for other in outside)
        )

    async def _uv(self, args: tuple[str, ...], work: Path, timeout_s: float) -> Completed:
        argv = (str(self.toolchain.uv), *args)
        return await run(self.toolchain, argv, cwd=work, env=self.env, timeout_s=timeout_s)


class PythonTooOld(InvalidInput):
    """A package needs a newer Python than it was resolved for.

    Attributes:
        needs: The minor version of Python 3 that it asks for.
    """

    def __init__(self, what: str, needs: int) -> None:
        super().__init__(
            f"{what} is not possible: it needs Python 3.{needs} or newer, which the hub does not have.",
            hint=f"Install Python 3.{needs} or newer and put it into the hub's PATH, e.g. as "
            f"`python3.{needs}`; the hub then takes it for this server by itself.",
            code="python_too_old",
        )
        self.needs = needs


def _install_failure(what: str, label: str, done: Completed) -> Exception:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("cause:", "error:"))]
    line = re.sub(r"^(?:cause|error):\s*", "", (told or lines or ["unknown error"])[-1])
    text = done.stderr.lower()
    if needs := _NEEDS_PYTHON.search(" ".join(lines)):
        return PythonTooOld(what, int(needs[1]))
    if "hash mismatch" in text or "hashes must match" in text:
        return UpstreamFailed(
            f"PyPI package {label} is not what was pinned: its hash differs.",
            hint="Somebody changed the package or the pin. Look at it, then pin it again: "
            "mcphub server pin",
            code="integrity_mismatch",
        )
    if "--no-build" in text or "building source distributions is disabled" in text:
        return InvalidInput(
            f"{what} is not possible without running a build script: {line}"[:500],
            hint="The package store installs wheels only. Use a version that has one, or install "
            "the server yourself and give the program's absolute path.",
            code="native_build",
        )
    return failure("uv", what, line)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _entries(lock: str) -> list[str]:
    """Return the lock's logical lines (a backslash continues a line)."""
    return [line for line in lock.replace("\\\n", " ").splitlines() if line.strip()]


def _top(lock: str, name: str) -> tuple[str, list[str]]:
    """Return version and sorted hashes of package `name` in `lock`."""
    for line in _entries(lock):
        found = _LOCKED.match(line)
        if found and _normal(found["name"]) == name:
            return found["version"], sorted(set(_HASH.findall(line)))
    raise UpstreamFailed(f"PyPI package {name} was not resolved.", hint="Check its name.")


def _with_pinned_hashes(lock: str, pin: Pin) -> str:
    """Return `lock` with the pin's hashes for its top package; the installer enforces them."""
    hashes = pin.integrity.split()
    if not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in hashes):
        raise UpstreamFailed("The pin has no usable hash.", hint="mcphub server pin")
    lines: list[str] = []
    for line in _entries(lock):
        found = _LOCKED.match(line)
        if found is None or _normal(found["name"]) != pin.name:
            lines.append(line)
            continue
        if found["version"] != pin.version:
            raise UpstreamFailed(
                f"The lock of {pin.name} is for another version than its pin.",
                hint="mcphub server pin",
                code="integrity_mismatch",
            )
        head = re.sub(r"\s*--hash=\S+", "", line).strip()
        lines.append(head + "".join(f" --hash={text}" for text in hashes))
    return "\n".join(lines) + "\n"


def _site(work: Path) -> Path:
    found = sorted((work / _VENV / "lib").glob("python*/site-packages"))
    assert len(found) == 1  # a fresh environment has exactly one
    return found[0]


def _name_real_interpreter(venv: Path, python: Path) -> None:
    """Make the environment name the interpreter's real place, with no symlink on the way.

    Only that place is visible in an instance; uv prefers to write its own aliases.
    """
    link = venv / "bin" / "python"
    link.unlink()
    link.symlink_to(python)
    settings = venv / "pyvenv.cfg"
    text = re.sub(r"(?m)^home = .*$", lambda _: f"home = {python.parent}", settings.read_text())
    settings.write_text(text)
    for leftover in venv.glob("bin/activate*"):
        leftover.unlink()
    shutil.rmtree(venv / "include", ignore_errors=True)


def _bins(work: Path) -> dict[str, list[str]]:
    """Return each program of the environment: name -> [kind, path in `work`]."""
    bins: dict[str, list[str]] = {}
    for script in sorted((work / _VENV / "bin").iterdir()):
        if script.is_symlink() or not script.is_file() or script.suffix == ".bat":
            continue
        with script.open("rb") as stream:
            head = stream.read(256)
        if head.startswith(b"\x7fELF"):
            kind = "native"
        elif b"'''exec'" in head or re.match(rb"#![^\n]*python", head):
            kind = "python"
        else:
            kind = "unknown"
        bins[script.name] = [kind, f"{_VENV}/bin/{script.name}"]
    return bins


def _default(package: str, work: Path) -> str:
    """Return the program named like `package`, else its only one, else empty.

    Those of its entry points come first; a wheel can also bring programs as they are, compiled ones mostly.
    """
    own = [
        distribution
        for distribution in distributions(path=[str(_site(work))])
        if _normal(distribution.metadata["Name"] or "") == package
    ]
    names = [
        point.name
        for distribution in own
        for point in distribution.entry_points
        if point.group == "console_scripts"
    ] or [
        file.name
        for distribution in own
        for file in distribution.files or ()
        if file.parts[0] == ".." and file.parent.name == "bin"
    ]
    named = [name for name in names if _normal(name) == package]
    return named[0] if named else names[0] if len(names) == 1 else ""
