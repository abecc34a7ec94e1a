"""From a client's settings file to entries for `mcp_settings.json`.

Reads Claude Desktop, Claude Code, Cursor, VS Code and Cline (all `mcpServers`, or `servers` with
`inputs`). Such a file is one person's: secrets that stand in it become credential slots, which each
user fills anew. Nothing is executed, and no secret reaches an entry or a note.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcphub.catalog.inputs import read_inputs
from mcphub.catalog.jsonc import JsoncError, parse
from mcphub.catalog.key_files import with_key_files
from mcphub.catalog.known import KnownServer, known_server
from mcphub.catalog.launchers import requirement
from mcphub.catalog.moving import left_behind, moved, without_network
from mcphub.catalog.names import server_name
from mcphub.catalog.problems import Problem, SettingsError
from mcphub.catalog.secrets_in_text import SecretFinder, client_templates, is_secret_name
from mcphub.catalog.settings_file import parse_settings, read_text
from mcphub.errors import InvalidInput
from mcphub.policy.model import EVERYONE

_TAKEN = frozenset(
    {"title", "type", "transport", "command", "args", "env", "cwd", "url", "headers"}
)
_URLS = ("serverUrl", "httpUrl")
_SILENT = frozenset(
    {"enabled", "disabled", "autoApprove", "alwaysAllow", "timeout", "oauth", "auth", *_URLS}
)


@dataclass(slots=True)
class ImportResult:
    """What a client's file gave.

    Attributes:
        entries: Servers by name, ready for `mcp_settings.json`.
        notes: What was changed, left out or is left to do; never with a value.
    """

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


_WANTED = 'Name the settings file of a client: JSON that holds "mcpServers" or "servers".'


class _AnyVariable(dict[str, str]):
    """An environment in which everything is set, to check the shape of entries."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ARG002
        return "x"


def import_client_file(path: Path, groups: Sequence[str] = (EVERYONE,)) -> ImportResult:
    """Read the servers of a client's settings file; see `import_client_text`.

    Raises:
        SettingsError: The file cannot be read, or holds no servers.
    """
    return import_client_text(read_text(path), groups, file=path.name)


def import_client_text(
    text: str, groups: Sequence[str] = (EVERYONE,), *, file: str = "settings.json"
) -> ImportResult:
    """Turn the servers of a client's settings into entries.

    Args:
        text: JSON with or without comments.
        groups: Who may use the imported servers.
        file: Name of the file, for errors.

    Raises:
        SettingsError: It is no JSON, or holds no servers.
    """
    try:
        document = parse(text)
    except JsoncError as error:
        raise SettingsError([Problem(file, error.path, error.message, _WANTED)]) from None
    result = ImportResult()
    blocks = list(_blocks(document))
    if not blocks:
        raise SettingsError([Problem(file, "$", "There are no servers in it.", _WANTED)])
    for servers, inputs in blocks:
        found = read_inputs(inputs)
        result.notes.extend(found.notes)
        for original, raw in servers.items():
            _take(result, original, found.replaced(raw), list(groups))
    if alone := without_network(result.entries):
        result.notes.append(
            f"without network: {', '.join(alone)}. Where one needs some, name the hosts in "
            '"sandbox": {"egress": […]}; `mcphub check NAME` finds out which it wants.'
        )
    return result


def _blocks(document: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield every servers object of a file with the inputs beside it.

    Claude Code keeps servers per project too; VS Code's user settings keep them under `mcp`.
    """
    if not isinstance(document, dict):
        return
    for key in ("mcpServers", "servers"):
        if isinstance(document.get(key), dict):
            yield document[key], document.get("inputs")
    if isinstance(document.get("mcp"), dict):
        yield from _blocks(document["mcp"])
    projects = document.get("projects")
    for project in projects.values() if isinstance(projects, dict) else ():
        if isinstance(project, dict) and isinstance(project.get("mcpServers"), dict):
            yield project["mcpServers"], None


def _take(result: ImportResult, original: str, raw: Any, groups: list[str]) -> None:
    wanted = server_name(original)
    name = _free_name(wanted, result.entries)
    shown = original[:80] if original.isprintable() else wanted

    def note(text: str) -> None:
        result.notes.append(f'server "{name}": {text}')

    if not isinstance(raw, dict):
        note("left out: it is no object.")
        return
    entry, notes = _entry(wanted, raw)
    if shown != wanted:
        entry = {"title": entry.pop("title", shown), **entry}
        notes.insert(0, f'was called "{shown}"; this is its title now.')
    entry["groups"] = groups
    if entry == result.entries.get(wanted):  # Claude Code repeats a server per project
        return
    try:
        parse_settings(json.dumps({"mcpServers": {name: entry}}), _AnyVariable(), file="import")
    except SettingsError as error:
        first = error.problems[0]
        note(f"left out: {first.message} {first.hint}".rstrip())
        return
    for text in notes:
        note(text)
    result.entries[name] = entry


def _free_name(name: str, taken: Mapping[str, object]) -> str:
    number, free = 2, name
    while free in taken:
        free = f"{name[:59]}-{number}"
        number += 1
    return free


def _entry(name: str, raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the entry without secrets, and notes about it."""
    raw, notes = moved(raw)
    for key in _URLS:
        if "url" not in raw and key in raw:
            raw["url"] = raw[key]
    known = _known(raw)
    finder = SecretFinder(name)
    entry = {key: raw[key] for key in raw if key in _TAKEN and raw[key] not in (None, "", [], {})}
    own = _translated(entry, known)
    entry, told = with_key_files(entry)
    notes += told
    if isinstance(entry.get("env"), dict):
        certain = known.slots if known is not None else ()
        entry["env"] = {
            key: finder.value(key, value, f"env.{key}", certain=key in certain)
            if isinstance(value, str)
            else _as_text(value)
            for key, value in entry["env"].items()
        }
    if isinstance(entry.get("headers"), dict):
        entry["headers"] = {
            key: finder.header(key, value, f"headers.{key}") if isinstance(value, str) else value
            for key, value in entry["headers"].items()
        }
    if _all_text(entry.get("args")):
        entry["args"] = finder.arguments(entry["args"])
    if isinstance(entry.get("url"), str):
        entry["url"] = finder.text(entry["url"], "url", f"{name.upper().replace('-', '_')}_TOKEN")
    for place, slot in [*own, *finder.found]:
        notes.append(f"{place} is now the credential {slot}: each user sets an own value.")
    _oauth(raw, entry, notes)
    _switches(raw, entry, notes)
    _known_advice(known, entry, notes)
    notes += left_behind(entry)
    dropped = sorted(key for key in raw if key not in _TAKEN | _SILENT)
    if dropped:
        notes.append(f"left out, as the client's own: {', '.join(key[:40] for key in dropped)}.")
    return entry, notes


def _oauth(raw: dict[str, Any], entry: dict[str, Any], notes: list[str]) -> None:
    """Let each user connect an own account where the client did (Claude Code, VS Code; Cursor: `auth`)."""
    written = raw.get("oauth", raw.get("auth"))
    url, headers = entry.get("url"), entry.get("headers", {})
    if not isinstance(written, dict) or not isinstance(url, str) or "$" in url:
        return
    if any(str(header).lower() == "authorization" for header in headers):
        return
    oauth: dict[str, Any] = {}
    client, scopes = written.get("clientId", written.get("CLIENT_ID")), written.get("scopes")
    if isinstance(client, str) and client and "$" not in client:
        oauth["clientId"] = client
    if _all_text(scopes):
        oauth["scopes"] = [word for text in scopes or [] for word in text.split()]
    entry["oauth"] = oauth
    hint = (
        "; its client has to know the redirect URI <URL of the hub>/oauth/callback, and a secret is "
        "written as ${NAME} into oauth.clientSecret."
    )
    notes.append(f"each user connects an own account (OAuth){hint if 'clientId' in oauth else '.'}")


def _translated(entry: dict[str, Any], known: KnownServer | None) -> list[tuple[str, str]]:
    """Translate the client's templates in place; return places that became slots by it."""
    made: list[tuple[str, str]] = []
    certain = frozenset(known.slots if known is not None else ())

    def change(value: Any, place: str) -> Any:
        if isinstance(value, str):
            return client_templates(value, lambda variable: slot(variable, place))
        if isinstance(value, list):
            return [change(inner, f"{place}[{index}]") for index, inner in enumerate(value)]
        if isinstance(value, dict):
            return {key: change(inner, f"{place}.{key}") for key, inner in value.items()}
        return value

    def slot(variable: str, place: str) -> str | None:
        upper = variable.upper()
        if variable.startswith("USER_") or not (is_secret_name(variable) or upper in certain):
            return None
        if not upper.replace("_", "a").isalnum() or not upper[0].isalpha():
            return None
        made.append((place, upper))
        return f"${{USER_{upper}}}"

    for key in ("command", "args", "env", "cwd", "url", "headers"):
        if key in entry:
            entry[key] = change(entry[key], key)
    return made


def _switches(raw: dict[str, Any], entry: dict[str, Any], notes: list[str]) -> None:
    if raw.get("disabled") is True or raw.get("enabled") is False:
        entry["enabled"] = False
    timeout = raw.get("timeout")
    if isinstance(timeout, int | float) and not isinstance(timeout, bool) and 1 <= timeout <= 3600:
        entry["timeoutSeconds"] = timeout
    if raw.get("autoApprove") or raw.get("alwaysAllow"):
        notes.append("tools that the client approved by itself are not approved by the hub.")


def _known_advice(known: KnownServer | None, entry: dict[str, Any], notes: list[str]) -> None:
    if known is None:
        return
    entry["riskLevel"] = known.risk
    notes.append(f'riskLevel "{known.risk}" as suggested for {known.package}.')
    if known.files and "files" not in entry:
        entry["files"] = dict(known.files)
        notes.append(
            f"it reads credentials from {' and '.join(known.files)}: each user sets own ones, with "
            "mcphub credential set … --from-file FILE."
        )
    if not known.env or not isinstance(entry.get("env", {}), dict):
        return
    env = dict(entry.get("env", {}))
    for key, value in known.env.items():
        if env.get(key) != value:
            env[key] = value
            notes.append(f"env.{key} set to {value}, {known.env_reason}.")
    entry["env"] = env


def _known(raw: dict[str, Any]) -> KnownServer | None:
    command, args = raw.get("command"), raw.get("args", [])
    if not isinstance(command, str) or not _all_text(args):
        return None
    try:
        return known_server(requirement(command, args))
    except InvalidInput:
        return None


def _as_text(value: Any) -> Any:
    """Numbers and switches, which some clients accept as environment, as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
