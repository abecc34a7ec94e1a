"""Edits `mcp_settings.json` and leaves everything else as its author wrote it, comments included.

Entries are only ever added; the new text is checked as a whole before it replaces the old one.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcphub.catalog.jsonc import Token, tokens
from mcphub.catalog.settings_file import LoadedSettings, parse_settings, read_text
from mcphub.errors import Conflict, InvalidInput

_ROOTS = ("mcpServers", "servers")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where entries are added: after the object's last piece, with or without a comma."""

    last: int
    end: int
    comma: bool
    content: int


def with_entries(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings text with further servers at the end of its servers object.

    Raises:
        InvalidInput: The text has no such object.
    """
    place = _servers_object(text)
    if place is None:
        raise InvalidInput(
            'mcp_settings.json has no "mcpServers" object.',
            hint='Write {"mcpServers": {}} into it.',
        )
    added = ",\n".join(
        f"    {json.dumps(name)}: "
        + json.dumps(entry, indent=2, ensure_ascii=False).replace("\n", "\n    ")
        for name, entry in entries.items()
    )
    comma = "," if place.comma else ""
    head = text[: place.last] + comma + text[place.last : place.content]
    return f"{head}\n{added}\n  {text[place.end :]}"


def add_entries(
    path: Path, entries: Mapping[str, Mapping[str, Any]], operator_env: Mapping[str, str]
) -> LoadedSettings:
    """Add servers to the file, if the result is right; return what it then says.

    Raises:
        Conflict: A server of this name is already there.
        SettingsError: The result would not load; the file is unchanged.
    """
    old = read_text(path)
    known = parse_settings(old, operator_env, file=path.name, hub_dir=path.parent).specs
    for name in entries:
        if name in known:
            raise Conflict(
                f"There is already a server '{name}'.",
                hint=f"Edit {path.name}, or choose another name.",
            )
    new = with_entries(old, entries)
    loaded = parse_settings(new, operator_env, file=path.name, hub_dir=path.parent)
    _replace(path, new)
    return loaded


def _replace(path: Path, text: str) -> None:
    """Write the file at once or not at all, with its old mode."""
    mode = path.stat().st_mode & 0o777
    descriptor, name = tempfile.mkstemp(prefix=".mcp_settings-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _servers_object(text: str) -> _Place | None:
    """Find the servers object: the value of a root key at depth 1."""
    depth = 0
    key = ""
    inside = False
    last: Token | None = None
    content = 0
    for token in tokens(text):
        if token.kind == "space":
            continue
        if token.kind == "comment":
            content = token.end
            continue
        if token.kind == "string" and depth == 1 and last is not None and last.text in "{,":
            key = json.loads(token.text)
        if token.text in "}]" and token.kind == "mark":
            depth -= 1
            if inside and depth == 1 and last is not None:
                return _Place(last.end, token.start, last.text not in "{,", max(content, last.end))
        elif token.text in "{[" and token.kind == "mark":
            opens = depth == 1 and token.text == "{" and key in _ROOTS
            inside = inside or (opens and last is not None and last.text == ":")
            depth += 1
        last = token
        content = token.end
    return None
