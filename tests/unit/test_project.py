"""The project around the code keeps its own rules: docstrings, sizes, pins, no foreign places."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "sdk" / "src").rglob("*.py")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def tracked() -> tuple[Path, ...]:
    """Files that belong to the project, as text can be read from them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return tuple(ROOT / name for name in listed.stdout.split("\0") if name)


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[.*?])?==(\S+)", requirements(name), re.M)
    return dict(found)


def requirements(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def bare(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_every_public_class_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text())
    silent = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert not silent


def test_no_module_is_longer_than_five_hundred_lines() -> None:
    long = {p.name: n for p in MODULES if (n := len(p.read_text().splitlines())) > 500}
    assert not long


def test_no_file_names_a_package_registry_or_a_place_of_one_machine() -> None:
    # Joined here, so that this file does not match itself.
    hosts = [
        "registry." + "npmjs",
        "pypi" + ".org",
        "files.python" + "hosted",
        "deb." + "debian.org",
    ]
    places = ["/work" + "/main", "/work" + "/shared", "/root/" + ".pyenv"]
    forbidden = re.compile("|".join(map(re.escape, hosts + places)))
    found = []
    for path in tracked():
        text = path.read_bytes().decode("utf-8", "ignore") if path.is_file() else ""
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in forbidden.finditer(text)]
    assert not found


@pytest.mark.parametrize("name", ["build", "run", "demo", "dev"])
def test_every_locked_package_has_a_version_and_a_hash(name: str) -> None:
    text = requirements(name).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert not line.startswith("-"), "an option, perhaps one that names a registry"
        assert "==" in line, line
        assert "--hash=sha256:" in line, line


def test_everything_that_pyproject_asks_for_is_locked() -> None:
    project = PROJECT["project"]
    run = {bare(line) for line in project["dependencies"]}
    extras = project["optional-dependencies"]
    demo = {bare(line) for extra in ("node", "demo") for line in extras[extra]}
    dev = {bare(line) for line in PROJECT["dependency-groups"]["dev"]}
    dev |= {bare(line) for extra in extras.values() for line in extra}
    assert run <= pins("run").keys()
    assert run | demo <= pins("demo").keys()
    assert run | demo | dev <= pins("dev").keys()


def test_the_larger_lock_holds_the_smaller_one_at_the_same_versions() -> None:
    # scripts/setup relies on it: an environment for tests serves the demonstration, too.
    assert pins("run").items() <= pins("demo").items() <= pins("dev").items()


def test_the_layers_of_the_architecture_page_are_those_that_are_enforced() -> None:
    contract = next(
        c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    page = (ROOT / "ARCHITECTURE.md").read_text()
    drawn = re.search(r"^(cli \| testing\s+>.*?)^```", page, re.M | re.S)
    assert drawn is not None
    assert [part.strip() for part in drawn.group(1).split(">")] == contract["layers"]


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    assert (ROOT / ".ci/run").read_text().rstrip().endswith("exec make test")
    assert "\nmake test " in (ROOT / "README.md").read_text()


def test_make_help_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.M)
    assert phony is not None
    shown = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for target in set(phony.group(1).split()) - {"help"}:
        assert f"make {target}" in shown


@pytest.mark.parametrize("script", ["scripts/setup", "scripts/lock"])
def test_a_script_is_valid_for_a_plain_posix_shell(script: str) -> None:
    subprocess.run(["sh", "-n", script], cwd=ROOT, check=True)


def test_setup_refuses_a_profile_that_it_does_not_know() -> None:
    ran = subprocess.run(
        ["scripts/setup", "everything"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "usage: scripts/setup" in ran.stderr


def test_the_locked_web_framework_is_past_its_host_header_bypass() -> None:
    # Rule R13: CVE-2026-48710 is in starlette before 1.0.1.
    version = tuple(int(part) for part in pins("run")["starlette"].split("."))
    assert version >= (1, 0, 1)
