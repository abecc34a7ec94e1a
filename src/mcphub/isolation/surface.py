"""What a server offers, as the check reads it: tools with what their names promise, resources, prompts.

Names are only hints for the order of calls and for what is left out; what a tool really does is
found by calling it. Annotations of the server are never believed where they promise harmlessness.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Final

_DEEPEST: Final = 40
_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_CREATE: Final = frozenset(
    [
        "create",
        "add",
        "set",
        "write",
        "start",
        "open",
        "init",
        "save",
        "store",
        "remember",
        "register",
        "login",
        "put",
        "insert",
        "import",
        "use",
        "switch",
        "make",
        "new",
        "append",
        "update",
        "edit",
        "upload",
        "record",
        "log",
        "begin",
        "put",
        "commit",
        "checkout",
        "stage",
        "enable",
        "toggle",
        "configure",
        "subscribe",
        "track",
        "push",
        "schedule",
        "plan",
        "request",
        "copy",
        "move",
        "rename",
        "mkdir",
        "touch",
        "upsert",
        "define",
        "enqueue",
        "post",
        "ingest",
    ]
)
_OBSERVE: Final = frozenset(
    [
        "get",
        "list",
        "read",
        "search",
        "show",
        "find",
        "status",
        "history",
        "recent",
        "describe",
        "count",
        "fetch",
        "query",
        "view",
        "display",
        "lookup",
        "retrieve",
        "inspect",
        "info",
        "diff",
        "stat",
        "whoami",
        "current",
        "check",
        "tree",
        "dump",
        "export",
        "head",
        "tail",
        "recall",
        "browse",
        "explain",
        "analyze",
        "summarize",
        "print",
    ]
)
_DESTROY: Final = frozenset(
    [
        "delete",
        "remove",
        "drop",
        "kill",
        "terminate",
        "reset",
        "clear",
        "purge",
        "truncate",
        "uninstall",
        "install",
        "shutdown",
        "destroy",
        "wipe",
        "erase",
        "format",
        "revoke",
        "exit",
        "quit",
        "stop",
        "disable",
        "forget",
        "flush",
        "unlink",
        "rm",
        "reboot",
        "restart",
        "cancel",
        "rollback",
        "abort",
        "logout",
        "close",
        "disconnect",
        "force",
        "prune",
        "cleanup",
        "upgrade",
        "give",
        "feedback",
        "generate",
    ]
) - frozenset(["generate", "give", "feedback", "format"])


_FILES: Final = re.compile(r"file|document|path|workbook|presentation", re.IGNORECASE)
_MAKE: Final = frozenset(
    [
        "create",
        "add",
        "make",
        "new",
        "insert",
        "save",
        "store",
        "remember",
        "record",
        "append",
        "upsert",
    ]
)
_NO_NOUNS: Final = frozenset(["tool", "all", "new", "mcp", "by", "to", "from", "the", "and", "for"])
_HIDE: Final = frozenset(["encrypt", "protect"])
"""After these nothing of a file can be read any more, by whomever."""


class Rank(IntEnum):
    """When a tool is called."""

    CREATE = 0
    OTHER = 1
    OBSERVE = 2


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool, or one thing that it does (`deeds`).

    Attributes:
        name: By which the check knows it.
        description, schema: As listed.
        deed: What it does of several things; empty where it does one.
        sent: Its name as listed, where `name` says more.
    """

    name: str
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)
    deed: str = ""
    sent: str = ""

    @property
    def wire_name(self) -> str:
        """Its name as the server lists it."""
        return self.sent or self.name

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name, lower case; those of its deed come first."""
        return (*words_of(self.deed), *words_of(self.wire_name))

    @property
    def rank(self) -> Rank:
        """What the first telling word of its name promises."""
        for word in self.words:
            if word in _CREATE:
                return Rank.CREATE
            if word in _OBSERVE:
                return Rank.OBSERVE
        return Rank.OTHER

    @property
    def makes(self) -> bool:
        """Whether its name promises that there is something afterwards which was not there before."""
        return not _MAKE.isdisjoint(self.words[: self._verb_ends])

    @property
    def nouns(self) -> frozenset[str]:
        """What its name speaks of, in the singular: the words after the first verb, or before it."""
        words = self.words[self._verb_ends :] or self.words[: max(0, self._verb_ends - 1)]
        return frozenset(word.rstrip("s") for word in words) - _NO_NOUNS

    @property
    def _verb_ends(self) -> int:
        verbs = (at for at, word in enumerate(self.words, 1) if word in _CREATE | _OBSERVE)
        return next(verbs, 0)

    @property
    def destructive(self) -> bool:
        """Whether its name says that something is lost or hidden afterwards."""
        given = self.schema.get("properties")
        names = (self.name, *(given if isinstance(given, dict) else ()))
        hides = not _HIDE.isdisjoint(self.words) and any(_FILES.search(name) for name in names)
        # a deed that says what it is may be one of a tool that can also delete
        own = self.deed if self.deed and Tool(self.deed).rank is not Rank.OTHER else self.name
        return hides or looks_destructive(own)


@dataclass(frozen=True, slots=True)
class Surface:
    """Everything that a server lists.

    Attributes:
        tools: By name.
        resources: URIs.
        templates: URI templates.
        prompts: Name -> names of required arguments.
        capabilities: As told at initialisation.
        server: Name and version, as told.
        instructions: As told.
    """

    tools: Mapping[str, Tool] = field(default_factory=dict)
    resources: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    server: str = ""
    instructions: str = ""

    def with_better(self, tool: str, instead: Mapping[str, Tool]) -> "Surface":
        """Return the same with a tool replaced, by one or by several."""
        kept = {name: one for name, one in self.tools.items() if name != tool}
        return replace(self, tools={**kept, **instead})

    @property
    def skipped(self) -> tuple[str, ...]:
        """Tools that are not called."""
        return tuple(sorted(name for name, tool in self.tools.items() if tool.destructive))


def words_of(name: str) -> tuple[str, ...]:
    """Split a name in snake, kebab or camel case into lower-case words."""
    return tuple(word.lower() for word in _WORD.findall(name))


def looks_destructive(name: str) -> bool:
    """Tell whether a name of a tool or of an enum's value says that something is lost afterwards."""
    return not _DESTROY.isdisjoint(words_of(name))


def tools_of(result: Mapping[str, Any]) -> list[Tool]:
    """Read the tools of a `tools/list` result; what is malformed is left out."""
    found: list[Tool] = []
    for raw in _list(result, "tools"):
        name, schema = raw.get("name"), raw.get("inputSchema")
        if isinstance(name, str) and name:
            description = raw.get("description")
            found.append(
                Tool(
                    name,
                    description if isinstance(description, str) else "",
                    _without_null(schema) if isinstance(schema, dict) else {},
                )
            )
    return found


def _without_null(schema: Any, depth: int = 0) -> Any:
    """Return a schema that says `"type": "string"` for `["string", "null"]`, as Rust writes what is optional."""
    if depth > _DEEPEST:
        return schema
    if isinstance(schema, list):
        return [_without_null(one, depth + 1) for one in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: _without_null(inner, depth + 1) for key, inner in schema.items()}
    kinds = schema.get("type")
    others = [kind for kind in kinds if kind != "null"] if isinstance(kinds, list) else []
    return {**told, "type": others[0]} if len(others) == 1 else told


def names_of(result: Mapping[str, Any], key: str, name: str) -> list[str]:
    """Read one text of each entry of a list."""
    return [raw[name] for raw in _list(result, key) if isinstance(raw.get(name), str)]


def prompts_of(result: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Read the prompts of a `prompts/list` result with their required arguments."""
    found: dict[str, tuple[str, ...]] = {}
    for raw in _list(result, "prompts"):
        if isinstance(raw.get("name"), str):
            arguments = _list(raw, "arguments")
            found[raw["name"]] = tuple(
                arg["name"] for arg in arguments if isinstance(arg.get("name"), str)
            )
    return found


def _list(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    entries = value.get(key)
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
