"""A place that a plain user can run the project from, wherever the checkout and its packages lie."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

UID = 61_001
ROOT = Path(__file__).parents[1]
_AS_USER = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--")


def _version(python: Path) -> str:
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _usable(python: Path) -> bool:
    """Whether any user may run this interpreter, and it takes the packages of the tests' own."""
    seen = subprocess.run([*_AS_USER, "test", "-x", python], check=False).returncode == 0
    return seen and _version(python) == "{} {}".format(*sys.version_info[:2])


def _python() -> Path | None:
    if os.geteuid() != 0:
        return None
    found = (Path(sys.executable).resolve(), Path("/usr/bin/python3"))
    return next((python for python in found if python.exists() and _usable(python)), None)


PYTHON = _python()
needs_plain_user = pytest.mark.skipif(
    PYTHON is None,
    reason=(
        "already unprivileged: the other tests cover this"
        if os.geteuid() != 0
        else "install a Python of the tests' version where any user may run it, as /usr/bin/python3"
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for the plain user.

    Attributes:
        root: Readable for it: holds copies of what is asked for.
        home: Its own.
        python: Command to start Python as that user.
        env: Environment for it.
    """

    root: Path
    home: Path
    python: tuple[str, ...]
    env: dict[str, str]


@contextmanager
def place_of_a_plain_user(name: str, files: Sequence[str]) -> Iterator[Place]:
    """Copy the sources and `files` (relative to the project) below /tmp, for the time of the block."""
    root = Path("/tmp") / f"mcphub-{os.getpid()}-{name}"
    try:
        root.mkdir(mode=0o755)
        for file in files:
            target = root / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, target)
        shutil.copytree(ROOT / "src", root / "src")
        path = [str(root / "src")]
        sites = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
        for index, entry in enumerate(sites):
            if _reachable(entry):
                path.append(str(entry))
            else:
                shutil.copytree(entry, root / f"site{index}", symlinks=True)
                path.append(str(root / f"site{index}"))
        home = root / "home"
        home.mkdir(mode=0o700)
        os.chown(home, UID, UID)
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(path), "HOME": str(home)}
        yield Place(root, home, (*_AS_USER, str(PYTHON), "-B"), env)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _reachable(folder: Path) -> bool:
    probe = [*_AS_USER, "test", "-r", folder, "-a", "-x", folder]
    return subprocess.run(probe, check=False).returncode == 0
