"""Edits `mcp_settings.json` and leaves everything else as its author wrote it, comments included.

Entries are added and single members set; the new text is checked as a whole before it replaces the old one.
"""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcphub.catalog.merging import merge_entries
from mcphub.catalog.patching import patch_entry
from mcphub.catalog.settings_file import LoadedSettings, parse_settings, read_text
from mcphub.catalog.spec import ServerSpec


def add_entries(
    path: Path, entries: Mapping[str, Mapping[str, Any]], operator_env: Mapping[str, str]
) -> LoadedSettings:
    """Add servers to the file, if the result is right; return what it then says.

    Raises:
        Conflict: A server of this name is already there.
        InvalidInput: The file has no servers object to add to.
        SettingsError: The result would not load; the file is unchanged.
    """
    old = read_text(path)
    parse_settings(old, operator_env, file=path.name, hub_dir=path.parent)
    new = merge_entries(old, entries)
    loaded = parse_settings(new, operator_env, file=path.name, hub_dir=path.parent)
    _replace(path, new)
    return loaded


def patch_server(
    path: Path, name: str, members: Mapping[str, Any], operator_env: Mapping[str, str]
) -> LoadedSettings:
    """Set members of a server in the file, if the result is right; return what it then says.

    Raises:
        NotFound: The file has no such server.
        InvalidInput: The text cannot be changed without changing the rest.
        SettingsError: The result would not load; the file is unchanged.
    """
    new = patch_entry(read_text(path), name, members)
    loaded = parse_settings(new, operator_env, file=path.name, hub_dir=path.parent)
    _replace(path, new)
    return loaded


def unknown_groups(specs: Iterable[ServerSpec], groups: Iterable[str]) -> list[str]:
    """Return a sentence for each server that is for a group that there is not."""
    known = set(groups)
    return [
        f'server "{spec.name}": there is no group {group}; add it: mcphub group add {group}'
        for spec in specs
        for group in sorted(set(spec.groups) - known)
    ]


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
