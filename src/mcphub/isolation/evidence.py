"""Kept results of checks: what was found for which version and which settings of a server.

One JSON file each, below `checks/` of the hub's directory, private. A result speaks of exactly one
version and one revision of the settings; for anything else it is history. Policy does not read it:
evidence for sharing is recorded in the database, by an administrator's word (`mcphub check --apply`).
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcphub.isolation.model import Result
from mcphub.isolation.report import as_json

_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept result.

    Attributes:
        at: When it was made, epoch seconds.
        version, revision: What it speaks of.
        result: As `report.as_json` gives it.
    """

    at: float
    version: str
    revision: str
    result: Mapping[str, Any]

    @property
    def told(self) -> str:
        """One line for people."""
        classes = ", ".join(self.result.get("classes", []))
        return f"{self.result.get('verdict')}{f' ({classes})' if classes else ''}"


class Checks:
    """The kept results below one directory. Names of servers are of a checked grammar (rule R23)."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, server: str, revision: str, result: Result, at: float) -> None:
        """Keep a result; the oldest of a server give way."""
        place = self._directory / server
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        value = {
            "at": at,
            "version": result.version,
            "revision": revision,
            "result": as_json(result),
        }
        descriptor, name = tempfile.mkstemp(prefix=".", dir=place)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False)
        Path(name).replace(place / f"{int(at * 1000):015d}.json")
        for old in sorted(place.glob("*.json"))[:-_KEPT]:
            old.unlink(missing_ok=True)

    def of(self, server: str) -> list[Kept]:
        """Return the kept results of a server, the newest first; unreadable ones are left out."""
        found: list[Kept] = []
        for file in sorted((self._directory / server).glob("*.json"), reverse=True):
            try:
                value = json.loads(file.read_text(encoding="utf-8"))
                kept = Kept(value["at"], value["version"], value["revision"], value["result"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            found.append(kept)
        return found

    def current(self, server: str, version: str, revision: str) -> Kept | None:
        """Return the newest result for exactly this version and these settings."""
        same = (k for k in self.of(server) if (k.version, k.revision) == (version, revision))
        return next(same, None)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what changed between two results, in sentences; empty when nothing did."""
    told = [
        f"{what}: {old.get(key)} -> {new.get(key)}"
        for key, what in (
            ("version", "version"),
            ("verdict", "verdict"),
            ("safe_to_share", "safe to share"),
            ("identity", "identity"),
        )
        if old.get(key) != new.get(key)
    ]
    before, after = set(old.get("classes", [])), set(new.get("classes", []))
    told += [f"new leak: {leak}" for leak in sorted(after - before)]
    told += [f"no longer seen: {leak}" for leak in sorted(before - after)]
    was, now = (set(r.get("coverage", {}).get("succeeded", [])) for r in (old, new))
    if was - now:
        told.append(f"no longer covered: {', '.join(sorted(was - now))}")
    if now - was:
        told.append(f"newly covered: {', '.join(sorted(now - was))}")
    return told
