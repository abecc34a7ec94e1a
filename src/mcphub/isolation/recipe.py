"""How a tool may be called: its recipes, and what its parameters take. Pure."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mcphub.isolation import dialects
from mcphub.isolation.kinds import (
    PATHS,
    TEMPLATES,
    Kind,
    enums,
    kind_of,
    parameters,
    properties_of,
)
from mcphub.isolation.oracle import NO_FILE, NO_JSON, TOO_SHORT
from mcphub.isolation.surface import Tool, looks_destructive

_MOST_ENUM: Final = 6
_ALONE: Final = 3  # optional parameters that are tried one by one: some exclude each other
_TONGUE: Final = re.compile(r"lang|runtime|interpreter", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tool's arguments are chosen.

    Attributes:
        tool: Its name.
        optional: Give optional parameters too.
        statement: Which statement, for a parameter that is a small language.
        choice: Which value of enumerations.
        relative: Give paths relative to the first root.
        handles: Take values that earlier answers mentioned, the n-th fitting one; -1 for none.
        existing: Give files that are there already, also to tools that make some.
        example: Give names and ids as the descriptions show them, else numbers for ids.
        long: Make texts long.
        as_json: Give JSON where a text is wanted, of the shape that the description shows.
        only: The one optional parameter that is given.
        members: What objects must have, as refusals say, whatever the schema says.
        fixed: Values of single parameters.
    """

    tool: str
    optional: bool = False
    statement: int = 0
    choice: int = 0
    relative: bool = False
    handles: int = -1
    existing: bool = False
    example: bool = False
    long: bool = False
    as_json: bool = False
    only: str = ""
    members: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)


def recipes(tool: Tool, user: str) -> list[Recipe]:
    """Return the recipes to try for a tool, the simplest first."""
    texts = parameters(tool)
    kinds = [kind for _, kind, _ in texts]
    first = Recipe(tool.name)
    template = next((kind for kind in kinds if kind in TEMPLATES), None)
    if template is not None:
        told = dialects.statements(template, user, explained(tool))
        found = [replace(first, statement=index) for index in range(len(told))]
        if template is Kind.EXPRESSION and len(properties_of(tool.schema)) > 1:
            found += [replace(found[0], optional=True), replace(found[-1], optional=True)]
        return found
    found = [first]
    required = {name for name, _, needed in texts if needed}
    found += [replace(first, choice=index) for index in range(1, choices(tool))]
    if len(required) < len(properties_of(tool.schema)) or not properties_of(tool.schema):
        found.append(replace(first, optional=True))
    if any(kind in PATHS for kind in kinds):
        found.append(replace(first, relative=True))
    return found


def corrected(tool: Tool, refused: Sequence[str]) -> list[Recipe]:
    """Return recipes that heed what the tool's refusals say is wrong with a text."""
    base = Recipe(tool.name)
    found = [
        replace(base, example=True, existing=True, handles=0, optional=True),
        replace(base, example=True),
    ]
    found += [replace(base, only=name) for name in optional_parameters(tool)[:_ALONE]]
    if any(NO_FILE.search(text) for text in refused):
        found += [replace(base, existing=True), replace(base, existing=True, optional=True)]
    if any(TOO_SHORT.search(text) for text in refused):
        found += [replace(base, long=True), replace(base, long=True, optional=True)]
    if any(NO_JSON.search(text) for text in refused):
        ways = itertools.product(range(choices(tool)), (False, True))
        found += [
            replace(base, as_json=True, choice=choice, optional=given) for choice, given in ways
        ]
    return found


def choices(tool: Tool) -> int:
    """Return how many values its largest required enumeration has, bounded; 1 without any."""
    return min(max((len(values) for values in enums(tool)), default=1), _MOST_ENUM)


def uses_paths(arguments: Mapping[str, Any], tool: Tool) -> bool:
    """Tell whether a call's arguments hold a path."""
    given = json.dumps(arguments)

    def is_given(name: str, kind: Kind) -> bool:
        # a name of a file is a path only where one was taken
        start = r"[/.]" if kind is Kind.FILE_NAME else ""
        return bool(re.search(rf'"{re.escape(name)}": \[?"{start}', given))

    return any(kind in PATHS and is_given(name, kind) for name, kind, _ in parameters(tool))


def language(tool: Tool) -> Kind | None:
    """Return the kind of its parameter that is a small language."""
    found = spoken(tool)
    return found[1] if found else None


def spoken(tool: Tool) -> tuple[str, Kind] | None:
    """Return its parameter that is a small language, and which kind of one."""
    texts = parameters(tool)
    return next(((name, kind) for name, kind, _ in texts if kind in TEMPLATES), None)


def handle_parameters(tool: Tool) -> list[tuple[str, Kind]]:
    """Return the parameters, nested ones too, that take a handle: ids, names, paths."""
    return [
        (name, kind)
        for name, kind, _ in parameters(tool)
        if kind in PATHS or kind in {Kind.IDENTIFIER, Kind.NAME, Kind.URL, Kind.EMAIL}
    ]


def optional_parameters(tool: Tool) -> list[str]:
    """Return its optional parameters, where there are several and no name says that something is lost."""
    required = tool.schema.get("required")
    needed = set(required) if isinstance(required, list) else set()
    names = [name for name in properties_of(tool.schema) if name not in needed]
    return [name for name in names if not looks_destructive(name)] if len(names) > 1 else []


def about(tool: Tool) -> str:
    """Return what a tool says of itself: name and description."""
    return f"{tool.name.replace('_', ' ')} {tool.description}"


def tongue(tool: Tool) -> str:
    """Return the language of its code where a parameter chooses among several; else an empty text.

    It is the one that is chosen first: the default, or the first of the enumeration.
    """
    for name, inner in properties_of(tool.schema).items():
        if isinstance(inner, dict) and _TONGUE.search(name) and isinstance(inner.get("enum"), list):
            values = [value for value in inner["enum"] if isinstance(value, str)]
            default = inner.get("default")
            if len(values) > 1:
                return default if isinstance(default, str) and default in values else values[0]
    return ""


def explained(tool: Tool) -> str:
    """Return what a tool says of itself and of its parameters; of code in a chosen language, that."""
    if language(tool) is Kind.CODE and (chosen := tongue(tool)):
        return chosen
    told = [
        inner.get("description")
        for inner in properties_of(tool.schema).values()
        if isinstance(inner, dict)
    ]
    return " ".join([about(tool), *(text for text in told if isinstance(text, str))])


def typed(tool: Tool, parameter: str, value: str) -> object:
    """Return a value in the type that a parameter of the first level has."""
    properties = tool.schema.get("properties")
    schema = properties.get(parameter, {}) if isinstance(properties, dict) else {}
    options = (schema.get("anyOf") or schema.get("oneOf")) if isinstance(schema, dict) else None
    listed = [schema, *(options if isinstance(options, list) else ())]
    kinds = [one["type"] for one in listed if isinstance(one, dict) and "type" in one]
    given = next((kind for kind in kinds if kind != "null"), None)
    if isinstance(given, list):
        given = next((kind for kind in given if kind != "null"), None)
    if given in ("integer", "number") and value.lstrip("-").isdigit():
        return int(value)
    if given == "array":
        return value.split() if kind_of(parameter, {}, tool.name, "") is Kind.COMMAND else [value]
    return value


def put(given: Any, name: str, value: Any) -> bool:
    """Replace every member of that name deeper in composed arguments; returns whether there was one."""
    found = False
    for inner in given if isinstance(given, list) else ():
        found |= put(inner, name, value)
    for key, inner in given.items() if isinstance(given, dict) else ():
        if key == name:
            given[key] = [value] if isinstance(inner, list) else value
            found = True
        else:
            found |= put(inner, name, value)
    return found
