"""The comparison's side of the packages: installed plainly, as a team without a hub would.

The hub has its own pinned store; these copies are writable on purpose, because some servers keep
their data inside the package. Exact versions, no install scripts, kept between runs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from mcphub.catalog.toolchain import OLDEST_NODE, find_toolchain
from mcphub.settings import environment
from mcphub.testing.demo.observation import CouldNotRun
from mcphub.testing.demo.programs import run

GITHUB = "@modelcontextprotocol/server-github@2025.4.8"
GIT = "@cyanheads/git-mcp-server@2.15.3"
FILESYSTEM = "@modelcontextprotocol/server-filesystem@2026.8.31"
MEMORY = "@modelcontextprotocol/server-memory@2026.8.31"
PYTHON = "mcp-python-interpreter==1.2.3"
POSTGRES = "@modelcontextprotocol/server-postgres@0.6.2"
MYSQL = "@benborla29/mcp-server-mysql@2.0.9"
MARIADB = "database-mcp-mariadb==0.2.1"

PYTHON_WITH = "mcp<2"
"""What `mcp-python-interpreter` needs beside itself: it does not know version 2 of the SDK."""

_INSTALL_S = 600.0


@dataclass(frozen=True, slots=True)
class PlainPackages:
    """Where the plain copies lie.

    Attributes:
        root: Directory of all of them.
        node: Node.js.
        npm: What runs npm: a program, or Node.js and a script.
    """

    root: Path
    node: str
    npm: tuple[str, ...]

    def node_argv(self, requirement: str) -> list[str]:
        """Return the command line that starts an npm package's server."""
        folder = self.folder(requirement)
        manifest = json.loads((folder / "package.json").read_text())
        entry = manifest["bin"]
        if isinstance(entry, Mapping):
            entry = next(iter(entry.values()))
        return [self.node, str(folder / str(entry))]

    def folder(self, requirement: str) -> Path:
        """Return the directory into which npm unpacked the package."""
        return self.root / "npm" / "node_modules" / requirement.rpartition("@")[0]

    def python_argv(self, requirement: str) -> list[str]:
        """Return the command line that starts a PyPI package's server."""
        name = requirement.partition("==")[0]
        return [str(self.root / name / "bin" / name)]

    async def install(self, npm: Sequence[str], pypi: Mapping[str, Sequence[str]]) -> None:
        """Install what is missing, one package manager after the other.

        Args:
            npm: Requirements `name@version`, all into one tree.
            pypi: Requirement `name==version` -> what it needs beside itself; an environment each.

        Raises:
            CouldNotRun: A package manager failed; its last words are in the message.
        """
        tree = self.root / "npm"
        if not _done(tree, npm):
            tree.mkdir(parents=True, exist_ok=True)
            (tree / "package.json").write_text('{"private": true}\n')
            await run(
                [*self.npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *npm],
                cwd=tree,
                timeout_s=_INSTALL_S,
            )
            _mark(tree, npm)
        for requirement, extra in pypi.items():
            wanted = [requirement, *extra]
            place = self.root / requirement.partition("==")[0]
            if _done(place, wanted):
                continue
            uv = find_uv_bin()
            await run(
                [uv, "venv", "--clear", "--python", sys.executable, str(place)],
                cwd=self.root,
                timeout_s=_INSTALL_S,
            )
            await run(
                [uv, "pip", "install", "--compile-bytecode", "--python", str(place), *wanted],
                cwd=self.root,
                timeout_s=_INSTALL_S,
            )
            _mark(place, wanted)


def plain_packages(root: Path) -> PlainPackages:
    """Find Node.js and return the place of the plain copies.

    Raises:
        CouldNotRun: There is no usable Node.js.
    """
    tools = find_toolchain(environment().get("PATH", ""))
    if tools.node is None or tools.npm is None:
        raise CouldNotRun(
            f"Node.js {OLDEST_NODE} or newer with npm is needed: `make demo` installs it"
        )
    root.mkdir(parents=True, exist_ok=True)
    npm = (str(tools.npm),)
    if tools.npm.suffix == ".js":
        npm = (str(tools.node), *npm)
    return PlainPackages(root, str(tools.node), npm)


def _done(place: Path, wanted: Sequence[str]) -> bool:
    mark = place / ".installed.json"
    return mark.is_file() and set(wanted) <= set(json.loads(mark.read_text()))


def _mark(place: Path, wanted: Sequence[str]) -> None:
    (place / ".installed.json").write_text(json.dumps(sorted(wanted)))
