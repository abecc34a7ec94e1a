"""Manifests: many servers in one file, each with how it is installed and started.

The form is a JSON list of objects with `id`, `install`, `command`, `args`, `env`, `transport` and
`path`; other members are not read. Placeholders: `{port}`, `{home}`, `{lab}`. An install line is read,
never executed: what it names is installed at its version by the package store.
"""

import itertools
import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mcphub.catalog.launchers import NPM, PYPI, Requirement
from mcphub.catalog.packages import PackageStore
from mcphub.errors import InvalidInput
from mcphub.isolation import acquire
from mcphub.isolation.backends import detect
from mcphub.isolation.subject import Subject

_NPM: Final = re.compile(r"(?P<name>(?:@[\w.~-]+/)?[\w.~-]+)(?:@(?P<version>.+))?")
_PYPI: Final = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*)(?P<features>\[[\w,.-]+\])?(?P<version>\s*(?:[=<>!~]=?|===).+)?"
)
_LAUNCHERS: Final = frozenset(["npx", "uvx"])
_IN_PACKAGE: Final = "node_modules/"


@dataclass(frozen=True, slots=True)
class Entry:
    """One server of a manifest, as written."""

    id: str
    install: str
    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    transport: str = "stdio"
    path: str = "/mcp"

    @property
    def url(self) -> str:
        """Where it listens; empty for stdio."""
        return "" if self.transport == "stdio" else f"http://127.0.0.1:{{port}}{self.path}"


def read(file: Path) -> list[Entry]:
    """Read a manifest.

    Raises:
        InvalidInput: It cannot be read, or an entry lacks what is needed; the message names it.
    """
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidInput(
            f"The manifest {file.name} cannot be read: {why}.",
            hint="It is a JSON list of servers.",
        ) from None
    servers = value.get("servers") if isinstance(value, dict) else value
    if not isinstance(servers, list):
        raise InvalidInput(f"The manifest {file.name} is no JSON list of servers.")
    return [_entry(raw, number) for number, raw in enumerate(servers, 1)]


def _entry(raw: Any, number: int) -> Entry:
    def texts(key: str) -> list[str]:
        found = raw.get(key) or []
        if not isinstance(found, list):
            raise InvalidInput(f"Entry {number} of the manifest: `{key}` is no list.")
        return [str(text) for text in found]

    if not isinstance(raw, dict) or not isinstance(raw.get("command"), str):
        raise InvalidInput(f"Entry {number} of the manifest has no `command`.")
    env = raw.get("env") or {}
    if not isinstance(env, dict):
        raise InvalidInput(f"Entry {number} of the manifest: `env` is no object.")
    return Entry(
        id=str(raw.get("id") or f"server-{number}"),
        install=str(raw.get("install") or ""),
        command=raw["command"],
        args=tuple(texts("args")),
        env={str(name): str(text) for name, text in env.items()},
        transport=str(raw.get("transport") or "stdio"),
        path=str(raw.get("path") or "/mcp"),
    )


async def subject(
    entry: Entry,
    packages: PackageStore,
    *,
    search_path: str,
    memory: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Subject:
    """Install what an entry names and return its subject.

    Raises:
        InvalidInput: The install line or the command is not understood.
        UpstreamFailed, Unavailable: The package cannot be installed.
    """
    wanted, notes = requirement(entry)
    if wanted is None:
        return await acquire.from_words(
            [entry.command, *entry.args],
            packages,
            env=entry.env,
            url=entry.url,
            name=entry.id,
            search_path=search_path,
            progress=progress,
        )
    return await acquire.from_requirement(
        wanted,
        packages,
        env=entry.env,
        url=entry.url,
        name=entry.id,
        inside=_IN_PACKAGE if entry.command == "node" else "",
        notes=notes,
        memory=memory,
        progress=progress,
    )


def setting(entry: Entry) -> dict[str, Any]:
    """Return an entry as a server of `mcp_settings.json`, without what has to be a user's own.

    Raises:
        InvalidInput: The hub cannot start it in this form; the message says why.
    """
    wanted, _ = requirement(entry)
    if entry.transport != "stdio":
        raise InvalidInput("The hub starts servers that speak stdio.")
    if detect.databases(entry.args, entry.env):
        raise InvalidInput(
            "Each user needs an account of the database, which only its owner makes."
        )
    args = [_in_home(arg) for arg in entry.args]
    env = {name: _in_home(text) for name, text in entry.env.items()}
    if wanted is None:
        return {"command": entry.command, "args": args, "env": env}
    extras = [extra for extra in wanted.extras if not extra.startswith("python=")]
    if wanted.ecosystem == NPM:
        package = f"{wanted.name}@{wanted.version}" if wanted.version else wanted.name
        beside = [word for extra in extras for word in ("-p", extra)]
        if wanted.bin:
            words = [*beside, "-p", package, wanted.bin]
        else:
            words = [*beside, package]
            args = args[1:] if entry.args and entry.args[0].startswith(_IN_PACKAGE) else args
        return {"command": "npx", "args": ["-y", *words, *args], "env": env}
    beside = [word for extra in extras for word in ("--with", extra)]
    python = ["--python", wanted.python] if wanted.python else []
    words = ["--from", f"{wanted.name}{wanted.version}", *beside, *python, wanted.bin]
    return {"command": "uvx", "args": [*words, *args], "env": env}


def _in_home(text: str) -> str:
    return text.replace("{home}", "${USER_HOME}").replace("{lab}", "${USER_HOME}/lab")


def requirement(entry: Entry) -> tuple[Requirement | None, tuple[str, ...]]:
    """Return the package that an entry's install line names, and what of the line is left out.

    A command that is a launcher names its package itself.
    """
    if entry.command in _LAUNCHERS:
        return None, ()
    found: Requirement | None = None
    notes: list[str] = []
    python = ""
    for part in entry.install.split("&&"):
        words = shlex.split(part)
        if words[:2] == ["uv", "venv"]:
            python = next((b for a, b in itertools.pairwise(words) if a in {"-p", "--python"}), "")
        elif words[:1] == ["npm"] and words[1:2] in (["i"], ["install"]):
            found = _npm([word for word in words[2:] if not word.startswith("-")], entry)
        elif words[:3] == ["uv", "pip", "install"] or words[:2] == ["pip", "install"]:
            at = 3 if words[0] == "uv" else 2
            found = _pypi([word for word in words[at:] if not word.startswith("-")], entry, python)
        elif words[:2] == ["npm", "rebuild"]:
            continue  # the package store finds out by itself what has to be built
        elif words:
            notes.append(f"not done at installation: {part.strip()[:200]}")
    return found, tuple(notes)


def _npm(words: Sequence[str], entry: Entry) -> Requirement:
    match = _NPM.fullmatch(words[0]) if words else None
    if match is None:
        raise InvalidInput(f"{entry.id}: the install line names no npm package.")
    return Requirement(
        NPM,
        match["name"],
        match["version"] or "",
        bin="" if entry.command == "node" else entry.command,
        extras=tuple(words[1:]),
        args=entry.args,
    )


def _pypi(words: Sequence[str], entry: Entry, python: str) -> Requirement:
    match = _PYPI.fullmatch(words[0]) if words else None
    if match is None:
        raise InvalidInput(f"{entry.id}: the install line names no PyPI package.")
    extras = list(words[1:])
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if match["features"]:
        extras.append(f"{match['name']}{match['features']}")
    if python and python != own:
        extras.append(f"python={python}")
    return Requirement(
        PYPI,
        re.sub(r"[-_.]+", "-", match["name"]).lower(),
        (match["version"] or "").strip(),
        bin=entry.command,
        extras=tuple(extras),
        args=entry.args,
    )
