"""The names of the first level of the command line, and commands as texts of the hub name them."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the first level.

    Attributes:
        name: The name.
        module: Module in `mcphub.cli` with the function that registers it.
        function: That function; takes the app, or the group when it is one.
        about: One line of help.
        group: Whether the name is a group of commands.
        bare: Whether the group's name alone is a command too.
    """

    name: str
    module: str
    function: str
    about: str
    group: bool = True
    bare: bool = False


ENTRIES: Final = (
    Entry("init", "setup", "register_init", "Make a hub: settings, keys, administrator.", False),
    Entry("serve", "setup", "register_serve", "Run the hub.", False),
    Entry("doctor", "doctor", "register", "Try what works on this machine.", False),
    Entry("user", "people", "register_users", "Users: who may call."),
    Entry("group", "people", "register_groups", "Groups: who may call which servers."),
    Entry("key", "people", "register_keys", "API keys: what proves who is calling."),
    Entry("credential", "credentials", "register", "Credentials: each user's own values."),
    Entry("server", "servers", "register", "Servers: what can be called, pinned."),
    Entry("check", "check", "register", "Can users share a server? Tried, with evidence.", False),
    Entry("vault", "evidence", "register_vault", "Keys that seal credentials."),
    Entry("context", "context", "register", "What servers are told of users, and its keys."),
    Entry("audit", "evidence", "register_audit", "Who did what to the hub."),
    Entry("explain", "watch", "register_explain", "Why a user may use a server, or not.", False),
    Entry("instances", "watch", "register_instances", "Running instances of servers.", bare=True),
    Entry("requests", "watch", "register_requests", "What was called, by whom.", bare=True),
    Entry("client-config", "clients", "register_config", "What to paste into a client.", False),
    Entry("connect", "clients", "register_connect", "Bridge a stdio client to the hub.", False),
    Entry("config", "setup", "register_config", "Settings of the hub."),
)
"""In the order of the help."""

_BRIDGE: Final = "connect"  # knows a URL, no directory
_GROUPS: Final = "|".join(entry.name for entry in ENTRIES if entry.group)
_OTHERS: Final = "|".join(
    entry.name for entry in ENTRIES if not entry.group and entry.name != _BRIDGE
)
_COMMAND: Final = re.compile(rf"\bmcphub (?:(?:{_GROUPS})(?: [a-z]+)?|(?:{_OTHERS}))(?![\w-])")


def command_of(arguments: Sequence[str]) -> str:
    """Return the command that the words of a command line begin with: none, one word, or two."""
    entry = next((entry for entry in ENTRIES if arguments and entry.name == arguments[0]), None)
    if entry is None:
        return ""
    named = entry.group and len(arguments) > 1 and arguments[1].isalpha()
    return f"{entry.name} {arguments[1]}" if named else entry.name


def for_hub(text: str, directory: Path | None) -> str:
    """Return a text whose commands are for the hub of a directory, as `--dir` gave it; None changes nothing."""
    if directory is None:
        return text
    option = f"--dir {shlex.quote(str(directory))}"
    return _COMMAND.sub(lambda found: f"{found[0]} {option}", text)
