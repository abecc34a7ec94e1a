"""What launcher lines of the settings are understood to mean, and which are refused."""

import dataclasses

import pytest

from mcphub.catalog.launchers import Requirement, exact_version, requirement, satisfies
from mcphub.catalog.packages import source_of
from mcphub.catalog.pins import Pin
from mcphub.errors import InvalidInput

MEMORY = "@modelcontextprotocol/server-memory"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"npx {MEMORY}", Requirement("npm", MEMORY)),
        (f"npx -y {MEMORY}@latest", Requirement("npm", MEMORY)),
        (f"/usr/bin/npx --yes {MEMORY}@2026.8.31", Requirement("npm", MEMORY, "2026.8.31")),
        ("npx -y time-mcp@^1.0.0 -v", Requirement("npm", "time-mcp", "^1.0.0", args=("-v",))),
        (
            "npx -y -p a@1.2.3 -p b run --flag -- x",
            Requirement("npm", "a", "1.2.3", "run", ("b",), ("--flag", "--", "x")),
        ),
        ("npx --package=a -- run", Requirement("npm", "a", bin="run")),
        ("npm exec -y a@1 -- --flag", Requirement("npm", "a", "1", args=("--flag",))),
        ("npm exec -- a --flag", Requirement("npm", "a", args=("--flag",))),
        ("npm x a dir", Requirement("npm", "a", args=("dir",))),
        ("uvx mcp-server-time", Requirement("pypi", "mcp-server-time")),
        (
            "uvx mcp_Server.time@2026.10.19 --local-timezone X",
            Requirement("pypi", "mcp-server-time", "==2026.10.19", args=("--local-timezone", "X")),
        ),
        ("uvx mcp-server-git==1.2", Requirement("pypi", "mcp-server-git", "==1.2")),
        ("uvx thing@latest", Requirement("pypi", "thing")),
        (
            "uvx --with mcp<2 mcp-server-sqlite@2025.4.25 --db-path x",
            Requirement(
                "pypi",
                "mcp-server-sqlite",
                "==2025.4.25",
                extras=("mcp<2",),
                args=("--db-path", "x"),
            ),
        ),
        (
            "uvx --from pkg[cli,all]>=1,<2 --with a>=1,<2,b[x] --python 3.13 run arg",
            Requirement(
                "pypi",
                "pkg",
                ">=1,<2",
                "run",
                ("pkg[all,cli]", "a>=1,<2", "b[x]", "python=3.13"),
                ("arg",),
            ),
        ),
        ("uv tool run --from=pkg run", Requirement("pypi", "pkg", bin="run")),
        ("pipx run --spec pkg==1 run -x", Requirement("pypi", "pkg", "==1", "run", (), ("-x",))),
        ("pipx run pkg", Requirement("pypi", "pkg")),
    ],
)
def test_a_launcher_line_names_its_package_version_program_and_arguments(
    line: str, expected: Requirement
) -> None:
    command, *args = line.split()
    assert requirement(command, args) == expected


@pytest.mark.parametrize(
    "line",
    [
        "node server.js",
        "python -m server",
        "uv run server.py",
        "npm start",
        "/opt/x/server",
        "docker run x",
    ],
)
def test_a_command_that_is_no_launcher_is_left_alone(line: str) -> None:
    command, *args = line.split()
    assert requirement(command, args) is None


@pytest.mark.parametrize(
    "line",
    [
        "npx",
        "npx -y",
        "npx -y -p a",
        "npx -c echo",
        "npx --registry=x a",
        "npx --unheard-of a",
        "npx user/repo",
        "npx git+https://example.org/x.git",
        "npx github:user/repo",
        "npx ./local",
        "npx ../up",
        "npx /abs/path",
        "npx file.tgz/..",
        "npx a@npm:b",
        "npx a@https://example.org/x.tgz",
        "npx ${USER_PACKAGE}",
        "npx -p a ../run",
        "npm exec a --flag",
        "npm exec a --flag -- x",
        "uvx",
        "uvx --from git+https://example.org/x run",
        "uvx --from ./local run",
        "uvx --from a --from b run",
        "uvx --with-editable . a",
        "uvx --with-requirements r.txt a",
        "uvx --index-url x a",
        "uvx --python ../python a",
        "uvx --python 3.13 --python 3.12 a",
        "uvx a@git+https://example.org/x",
        "uvx --with",
        "uvx --from a ../run",
        "pipx run --pip-args=x a",
        "pipx run https://example.org/x.py",
        "bunx a",
        "pnpm dlx a",
    ],
)
def test_a_launcher_line_that_is_not_fully_understood_is_refused_with_a_hint(line: str) -> None:
    command, *args = line.split()
    with pytest.raises(InvalidInput) as caught:
        requirement(command, args)
    assert caught.value.hint


def test_a_pin_satisfies_a_range_but_no_other_exact_version_package_or_surroundings() -> None:
    pin = Pin("npm", "a", "1.2.3", "sha512-x", (), 0.0)
    assert satisfies(pin, Requirement("npm", "a"))
    assert satisfies(pin, Requirement("npm", "a", "^1"))
    assert satisfies(pin, Requirement("npm", "a", "1.2.3"))
    assert not satisfies(pin, Requirement("npm", "a", "1.2.4"))
    assert not satisfies(pin, Requirement("npm", "b"))
    assert not satisfies(pin, Requirement("npm", "a", extras=("b",)))
    assert not satisfies(dataclasses.replace(pin, ecosystem="pypi"), Requirement("npm", "a"))


@pytest.mark.parametrize(
    ("ecosystem", "version", "exact"),
    [
        ("npm", "1.2.3", "1.2.3"),
        ("npm", "1.2", ""),
        ("npm", "next", ""),
        ("pypi", "==1.2", "1.2"),
        ("pypi", "==1.*", ""),
        ("pypi", ">=1", ""),
    ],
)
def test_only_a_full_version_is_exact(ecosystem: str, version: str, exact: str) -> None:
    assert exact_version(Requirement(ecosystem, "a", version)) == exact


def test_a_package_lies_where_its_name_is_or_else_among_all_modules(tmp_path):
    assert source_of(tmp_path, "@scope/notes") is None
    modules = tmp_path / "venv/lib/python3.11/site-packages"
    (modules / "src").mkdir(parents=True)
    assert source_of(tmp_path, "my-notes") == modules
    (modules / "my_notes").mkdir()
    assert source_of(tmp_path, "my-notes") == modules / "my_notes"
    (tmp_path / "node_modules/@scope/notes").mkdir(parents=True)
    assert source_of(tmp_path, "@scope/notes") == tmp_path / "node_modules/@scope/notes"
