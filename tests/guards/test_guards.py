"""A rule whose guard is removed must not stay unnoticed."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.guards.guards import GUARDS, Guard

ROOT = Path(__file__).parents[2]
NEEDED = {f"R{number}" for number in (*range(1, 12), *range(14, 19), 20, 23, 24)}


def test_every_rule_that_the_hub_keeps_alone_has_a_guard_here() -> None:
    assert {guard.rule for guard in GUARDS} >= NEEDED


@pytest.mark.parametrize("guard", GUARDS, ids=[f"{guard.rule}: {guard.what}" for guard in GUARDS])
def test_the_removal_of_a_guard_is_noticed(guard: Guard, tmp_path: Path) -> None:
    """Runs the guard's test on a copy of the source without the guard; with it, the suite runs it."""
    copy = tmp_path / "src"
    shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "mcphub" / guard.file
    text = file.read_text()
    assert text.count(guard.line) == 1, f"{guard.file} no longer holds the guard of {guard.rule}"
    file.write_text(text.replace(guard.line, guard.without))
    # a short path: a hub's socket may not have more than 107 characters, and a test that fails for
    # that would look as if it had noticed something
    with tempfile.TemporaryDirectory(prefix="g") as inner:
        ran = _run(copy, guard.test, inner)
    assert ran.returncode == 1, ran.stdout[-2000:]
    assert " failed" in ran.stdout.splitlines()[-1], ran.stdout[-2000:]
    assert " error" not in ran.stdout.splitlines()[-1], ran.stdout[-2000:]
    assert "control socket cannot be made" not in ran.stdout, ran.stdout[-2000:]


def _run(source: Path, test: str, basetemp: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:randomly", "-p", "no:cacheprovider",
         "--basetemp", basetemp, f"tests/{test}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(source), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )  # fmt: skip
