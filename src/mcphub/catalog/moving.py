"""What an entry of one person's client says that holds on that person's machine only.

Wrappers that such machines need are taken away; what else belongs to the machine is told. Pure.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from mcphub.catalog.known import known_server
from mcphub.catalog.launchers import NPM, requirement
from mcphub.errors import InvalidInput

_SHELL: Final = "cmd"
_BRIDGE: Final = "mcp-remote"
_VARIABLE: Final = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)\}")
_PERSONAL: Final = re.compile(r"(?:^|[=:,;\s])(?:~[/\\]|/Users/|/home/(?!u/)|[A-Za-z]:[\\/](?!/))")


def moved(raw: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return an entry without what only its old machine needs, and notes about it."""
    raw, notes = dict(raw), list[str]()
    command, args = raw.get("command"), raw.get("args")
    if not isinstance(command, str) or not isinstance(args, list):
        return raw, notes
    if not all(isinstance(word, str) for word in args):
        return raw, notes
    program = PureWindowsPath(command).name.lower().removesuffix(".exe")
    if program == _SHELL and len(args) > 1 and args[0].lower() == "/c":
        raw["command"], raw["args"] = args[1], args[2:]
        notes.append("started without the Windows shell around it.")
    bridged = _bridged(raw)
    if bridged is not None:
        raw = {key: raw[key] for key in raw if key not in {"command", "args", "env"}} | bridged
        notes.append(f"reached at its address, without {_BRIDGE} in between.")
    return raw, notes


def without_network(entries: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return the names of servers of which nobody knows where they need to go; they get no network."""
    found: list[str] = []
    for name, entry in entries.items():
        if "command" in entry:
            known = known_server(requirement(entry["command"], entry.get("args", [])))
            if known is None or not (known.egress or known.needs_egress):
                found.append(name)
    return found


def left_behind(entry: dict[str, Any]) -> Iterator[str]:
    """Yield what is left to do because the server runs somewhere else now."""
    if "command" not in entry:
        return
    args, env = entry.get("args"), entry.get("env")
    texts: dict[str, object] = {
        f"args[{index}]": text for index, text in enumerate(args if isinstance(args, list) else [])
    }
    texts |= {f"env.{key}": value for key, value in (env if isinstance(env, dict) else {}).items()}
    for place, text in texts.items():
        if isinstance(text, str) and _PERSONAL.search(text):
            yield (
                f"{place} names a place on one person's machine. Each user's own directory is "
                '${USER_HOME}; directories of this machine are shown by "sandbox": {"readable": […]}.'
            )


def _bridged(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Return the address and the headers that a bridge from stdio to HTTP is told; None for anything else."""
    try:
        found = requirement(str(raw["command"]), raw["args"])
    except InvalidInput:
        return None
    if found is None or (found.ecosystem, found.name) != (NPM, _BRIDGE) or not found.args:
        return None
    url, *rest = found.args
    env: dict[str, object] = raw["env"] if isinstance(raw.get("env"), dict) else {}
    headers: dict[str, str] = {}
    while rest:
        option = rest.pop(0)
        if option == "--header" and rest:
            name, _, value = rest.pop(0).partition(":")
            headers[name.strip()] = _VARIABLE.sub(
                lambda seen: str(env.get(seen[1], seen[0])), value.strip()
            )
        elif option == "--transport" and rest:
            rest.pop(0)
        elif option not in {"--allow-http", "--debug"} and not option.isdigit():
            return None  # it says more than an address
    return {"url": url, **({"headers": headers} if headers else {})}


def containers(command: str) -> bool:
    """Tell whether a command starts containers."""
    return PurePosixPath(command).name in {"docker", "podman", "nerdctl"}
