"""The spawner's contract once more as a plain user: what a hub without root gets (level 3)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UID = 61_001
PYTHON = Path("/usr/bin/python3")
HERE = Path(__file__).parent


def version(python: Path) -> str:
    code = "import sys; print(*sys.version_info[:2])"
    return subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="already unprivileged: test_spawner covers this")
@pytest.mark.skipif(
    not PYTHON.exists() or version(PYTHON) != "{} {}".format(*sys.version_info[:2]),
    reason="needs /usr/bin/python3 of the tests' own version, reachable by any user",
)
@pytest.mark.parametrize(
    ("suite", "some"),
    [
        ("contracts/test_spawner.py", ""),
        ("contracts/test_spawner_egress.py", "redirected or two_users or listed_forward or told"),
        ("security/test_sandbox_programs.py", "not lock and not tests-python"),
        ("chaos/test_orphans.py", "fork_bomb or killing_the_hub"),
    ],
)
def test_the_contract_holds_for_a_hub_without_root(suite, some):
    # Everything that the plain user needs is copied: the checkout may lie below a private directory.
    place = Path("/tmp") / f"mcphub-unprivileged-{os.getpid()}-{Path(suite).stem}"
    try:
        place.mkdir(mode=0o755)
        for name in (f"tests/{suite}", "tests/conftest.py"):
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HERE.parent.parent / name, target)
        shutil.copyfile(HERE.parent.parent / "pyproject.toml", place / "pyproject.toml")
        shutil.copytree(HERE.parent.parent / "src", place / "src")
        path = [str(place / "src")]
        for index, entry in enumerate(site()):
            if reachable(entry):
                path.append(str(entry))
            else:
                shutil.copytree(entry, place / f"site{index}", symlinks=True)
                path.append(str(place / f"site{index}"))
        (place / "base").mkdir()
        os.chown(place / "base", UID, UID)
        done = subprocess.run(
            [
                *("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--"),
                *(PYTHON, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *("--basetemp", str(place / "base" / "t"), f"tests/{suite}", "-k", some),
            ],
            cwd=place,
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": ":".join(path),
                "HOME": str(place / "base"),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "skipped" not in done.stdout
    finally:
        shutil.rmtree(place, ignore_errors=True)


def site() -> list[Path]:
    return [Path(entry) for entry in sys.path if entry.endswith("site-packages")]


def reachable(folder: Path) -> bool:
    probe = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--"]
    done = subprocess.run([*probe, "test", "-r", folder, "-a", "-x", folder], check=False)
    return done.returncode == 0
