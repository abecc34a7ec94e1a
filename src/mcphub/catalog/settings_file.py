"""`mcp_settings.json`: text in, checked `ServerSpec`s out. Nothing is executed or looked up.

The file is Claude Desktop's `mcpServers` format plus the hub's fields; VS Code's `servers` and
`inputs` are read too. A file loads as a whole or not at all: every problem of it is told together,
with its place and a hint, never with the text of a value. `catalog.live` watches it.
"""

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mcphub.catalog.building import SpecBuilder
from mcphub.catalog.entries import server_entry, unknown_key_hint
from mcphub.catalog.inputs import read_inputs
from mcphub.catalog.jsonc import JsoncError, parse
from mcphub.catalog.names import NAME_HINT, is_server_name
from mcphub.catalog.problems import Problem, SettingsError, json_path
from mcphub.catalog.spec import ServerSpec

__all__ = ["LoadedSettings", "Problem", "SettingsError", "load_settings", "parse_settings"]

LARGEST = 2 * 1024 * 1024
"""Bytes of a settings file that are read at most."""

SERVERS_FILE = "mcp_settings.json"
"""The hub's own; the others are those of clients."""

_ROOT_KEYS = ["mcpServers", "servers", "inputs", "$schema"]


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """A settings file that is right.

    Attributes:
        specs: Servers by name, in the order of the file.
        warnings: Sentences about what is allowed but worth a look; never with a secret.
    """

    specs: Mapping[str, ServerSpec] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def load_settings(path: Path, operator_env: Mapping[str, str]) -> LoadedSettings:
    """Read, check and expand the settings at `path`.

    Args:
        path: The file; its directory counts as the hub's own and is never readable for a server.
        operator_env: What `${NAME}` may name.

    Raises:
        SettingsError: With everything that is wrong.
    """
    text = read_text(path)
    return parse_settings(text, operator_env, file=path.name, hub_dir=path.absolute().parent)


def read_text(path: Path, owners: Container[int] | None = None) -> str:
    """Return the text of a settings file.

    Args:
        path: The file.
        owners: Kernel uids whose file it may be; None for anybody's.

    Raises:
        SettingsError: It is missing, somebody else's, unreadable, too large or no UTF-8.
    """

    def refused(message: str, hint: str) -> SettingsError:
        return SettingsError([Problem(path.name, "$", message, hint)])

    try:
        with path.open("rb") as file:
            if owners is not None and os.fstat(file.fileno()).st_uid not in owners:
                raise refused(
                    "It belongs to another account of this machine.",
                    "Look at what is in it, and chown it.",
                )
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        own = path.name == SERVERS_FILE
        hint = "Make one with: mcphub init" if own else "Correct the path."
        raise refused("The file does not exist.", hint) from None
    except OSError as error:
        folder = isinstance(error, IsADirectoryError)
        hint = "Name a file in it." if folder else "Check its permissions."
        raise refused(f"It cannot be read ({error.strerror}).", hint) from None
    if len(data) > LARGEST:
        raise refused(f"It is larger than {LARGEST} bytes.", "Remove what are no server settings.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise refused("It is no UTF-8 text.", "Save it as UTF-8.") from None


def parse_settings(
    text: str,
    operator_env: Mapping[str, str],
    *,
    file: str = SERVERS_FILE,
    hub_dir: Path | None = None,
) -> LoadedSettings:
    """Check and expand a settings text; see `load_settings`.

    Raises:
        SettingsError: With everything that is wrong.
    """
    try:
        document = parse(text)
    except JsoncError as error:
        raise SettingsError([Problem(file, error.path, error.message)]) from None
    problems: list[Problem] = []
    root, servers, notes = _servers(file, document, problems)
    private = None if hub_dir is None else PurePosixPath(hub_dir)
    builder = SpecBuilder(file=file, root=root, operator_env=operator_env, hub_dir=private)
    builder.warnings.extend(notes)
    specs: dict[str, ServerSpec] = {}
    for name, raw in servers.items():
        if not is_server_name(name):
            problems.append(
                Problem(file, json_path(root, name), "It cannot name a server.", NAME_HINT)
            )
        entry = server_entry(file, root, name, raw)
        if isinstance(entry, list):
            problems.extend(entry)
            continue
        specs[name] = builder.build(name, entry)
        problems.extend(builder.take_problems())
    if problems:
        raise SettingsError(problems)
    return LoadedSettings(specs, tuple(builder.warnings))


def _servers(
    file: str, document: Any, problems: list[Problem]
) -> tuple[str, dict[str, Any], list[str]]:
    """Return the root key, the servers under it, and notes about VS Code's inputs."""
    if not isinstance(document, dict):
        problem = Problem(file, "$", "It should be an object.", 'Write {"mcpServers": {}}.')
        raise SettingsError([problem])
    for key in document:
        if key not in _ROOT_KEYS:
            hint = unknown_key_hint(key, _ROOT_KEYS)
            problems.append(
                Problem(file, json_path(key), f'The key "{key[:80]}" is unknown.', hint)
            )
    both = "mcpServers" in document and "servers" in document
    root = "servers" if "servers" in document else "mcpServers"
    if both or root not in document:
        message = '"mcpServers" and "servers" stand together.' if both else "There are no servers."
        problems.append(Problem(file, "$", message, 'Write all of them under "mcpServers".'))
    servers = document.get(root, {})
    if not isinstance(servers, dict):
        problems.append(Problem(file, json_path(root), "It should be an object.", ""))
        servers = {}
    inputs = read_inputs(document.get("inputs"))
    problems.extend(Problem(file, path, message) for path, message in inputs.problems)
    return root, inputs.replaced(servers), inputs.notes
