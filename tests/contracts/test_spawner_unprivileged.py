"""The spawner's contract once more as a plain user: what a hub without root gets (level 3)."""

import subprocess
from pathlib import Path

import pytest
from tests.unprivileged import needs_plain_user, place_of_a_plain_user


@pytest.mark.root
@needs_plain_user
@pytest.mark.parametrize(
    ("suite", "some"),
    [
        ("contracts/test_spawner.py", ""),
        ("contracts/test_spawner_egress.py", "redirected or two_users or listed_forward or told"),
        ("security/test_sandbox_programs.py", "not lock and not tests-python"),
        ("security/test_zygote.py", "proc_shows or random or cannot_import or at_once or end_of"),
        (
            "security/test_warm.py",
            "own_home or own_files or serves_one or looks_like or writes_while",
        ),
        ("security/test_native_builds.py", "reaches_nothing"),
        ("chaos/test_orphans.py", "fork_bomb or killing_the_hub"),
    ],
)
def test_the_contract_holds_for_a_hub_without_root(suite, some):
    own = (
        "tests/__init__.py",
        "tests/conftest.py",
        "tests/forked.py",
        "tests/memory.py",
        "tests/polling.py",
        "tests/registry.py",
        "tests/warmed.py",
    )
    files = (f"tests/{suite}", *own, "pyproject.toml")
    with place_of_a_plain_user(Path(suite).stem, files) as place:
        pytest_options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "timeout=120")
        done = subprocess.run(
            [
                *(*place.python, "-m", "pytest", *pytest_options),
                *("--basetemp", str(place.home / "t"), f"tests/{suite}", "-k", some),
            ],
            cwd=place.root,
            env=place.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=170,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
