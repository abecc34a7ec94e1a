"""Tools that do several things: a parameter such as `action` chooses which one. Pure.

What such a tool promises is promised by the chosen value: `list` shows, `add` makes. So it is taken
apart: each value is a tool of its own, which is called with that value only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcphub.isolation.surface import Rank, Tool, words_of

_CHOOSERS: Final = frozenset(
    ["action", "operation", "op", "command", "cmd", "subcommand", "verb", "function", "act", "method"]
)  # fmt: skip
_MOST: Final = 40
BESIDE: Final = "x-beside"
"""Of a parameter's schema: the members of each example, by its value."""
_DEEPEST: Final = 4


def apart(tools: Iterable[Tool]) -> dict[str, Tool]:
    """Return tools by name, in the place of each that does several things one for each of them."""
    return {one.name: one for tool in tools for one in _parts(tool)}


def chooses(name: str) -> bool:
    """Tell whether a parameter's name says that it chooses what a tool does."""
    return not _CHOOSERS.isdisjoint(words_of(name))


def _parts(tool: Tool) -> list[Tool]:
    for path, schema in _parameters(tool):
        enum = schema.get("enum")
        values = [value for value in enum if isinstance(value, str)] if enum else []
        if len(values) < 2 or not (chooses(path[-1]) or _verbs(values)):
            continue
        found = [
            replace(
                tool,
                name=f"{tool.name}[{value}]",
                schema=_narrowed(tool, tool.schema, path, [value]),
                deed=value,
                sent=tool.wire_name,
            )
            for value in values[:_MOST]
        ]
        rest = values[_MOST:]
        return [
            *found,
            *([replace(tool, schema=_narrowed(tool, tool.schema, path, rest))] if rest else []),
        ]
    return [tool]


def _verbs(values: Sequence[str]) -> bool:
    """Tell whether most of the values name something that is done."""
    return sum(Tool(value).rank is not Rank.OTHER for value in values) * 2 > len(values)


def _parameters(tool: Tool) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield path and schema of the parameters, level by level; not those of the things in lists.

    Nor those of an object that may be left out beside others: without it the tool does something else.
    """
    level: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), tool.schema)]
    for _ in range(_DEEPEST):
        below: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []
        inside: list[tuple[tuple[str, ...], Mapping[str, Any]]] = []
        for path, schema in level:
            given, needed = schema.get("properties"), schema.get("required")
            own = given if isinstance(given, dict) else {}
            for name, raw in own.items():
                found = ((*path, str(name)), _plain(tool, raw))
                below.append(found)
                if len(own) == 1 or (isinstance(needed, list) and name in needed):
                    inside.append(found)
        yield from below
        level = inside


def _narrowed(
    tool: Tool, schema: Mapping[str, Any], path: Sequence[str], values: Sequence[str]
) -> dict[str, Any]:
    """Return a schema in which the parameter at `path` is required and has these values only."""
    schema = _plain(tool, schema)
    name, rest = path[0], path[1:]
    inner = _plain(tool, schema["properties"][name])
    narrow = (
        _narrowed(tool, inner, rest, values)
        if rest
        else {k: v for k, v in inner.items() if k != "default"} | {"enum": list(values)}
    )
    own, required = schema["properties"], schema.get("required")
    told = inner.get(BESIDE) if not rest and len(values) == 1 else None
    if isinstance(told, dict):
        examples = told.get(values[0], [])
        own = {key: own[key] for example in examples for key in example}
        required = [key for key in own if all(key in example for example in examples)]
    needed = [key for key in required if key != name] if isinstance(required, list) else []
    return {**schema, "properties": {**own, name: narrow}, "required": [*needed, name]}


def _plain(tool: Tool, schema: Any) -> Mapping[str, Any]:
    """Follow references, and take the first alternative that is not null."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            target: Any = tool.schema
            for part in reference[2:].split("/"):
                target = target.get(part) if isinstance(target, dict) else None
            schema = target
            continue
        options = next((o for key in ("anyOf", "oneOf", "allOf") if (o := schema.get(key))), None)
        listed = options if isinstance(options, list) else []
        usable = [o for o in listed if isinstance(o, dict) and o.get("type") != "null"]
        if not usable or isinstance(schema.get("properties"), dict):
            return schema
        kept = {k: v for k, v in schema.items() if k not in {"anyOf", "oneOf", "allOf"}}
        schema = {**kept, **usable[0]}
    return schema if isinstance(schema, dict) else {}
