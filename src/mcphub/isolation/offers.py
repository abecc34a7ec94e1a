"""What a schema leaves open and the server's words tell: values that are taken, members of an object. Pure.

A description shows calls as JSON; a refusal lists what it would have taken. Both become part of the
tool's schema, so that everything else treats them as if the server had declared them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mcphub.isolation.deeds import BESIDE, chooses
from mcphub.isolation.surface import Tool

_EXAMPLE: Final = re.compile(r"\{[^{}]{3,600}\}")
_MOST_EXAMPLES: Final = 40
_WORD: Final = re.compile(r"[A-Za-z][\w.-]{0,40}")
_CUE: Final = re.compile(
    r"(?:\b(?:one of|either|choose (?:from|between))\b(?: the following\b)?(?: values?\b)?"
    r"|(?P<quoted>\b(?:expected|must be|should be|can be)\b)"
    r"|\b(?:valid|supported|available|allowed|possible|known|accepted|permitted)\s(?:[a-z]+\s){0,2}?[a-z]+\b(?:\sare\b)?"
    r"|\b(?:options|choices|values)\b(?: are\b)?"
    # the same in other languages, where the adjective may come last
    r"|\b(?:verfügbare|gültige|erlaubte|mögliche|доступные|допустимые)\s\w+"
    r"|\b\w+\s(?:available|allowed|disponibles|disponibili|disponíveis|valides|válid[oa]s|valid[ei]|autorisées?|permitid[oa]s)\b"
    r"|(?:可用|支持|可选|有効|利用可能)\w{0,8})[\s:\uff1a=(\[]{1,4}",
    re.IGNORECASE,
)
# one on each line, with what is said of it behind a dash, a colon or a gap
_LINE: Final = re.compile(
    r"(?P<indent>[ \t]*)(?:[-*•]|\d+[.)])?[ \t]*[\"'`*]{0,2}(?P<item>\w[\w.+/%°-]{0,40})[\"'`*]{0,2}"
    r"(?:[ \t]*$|[ \t]*(?::|--?|\u2013|\u2014|\(|\|)(?:[ \t].*)?$|(?:[ \t]{2,}|\t)\S.*)"
)
_QUOTED: Final = re.compile(r"\s*[\"'`](?P<item>\w[^\"'`\n]{0,60})[\"'`]")
_ITEM: Final = re.compile(rf"{_QUOTED.pattern}|\s*(?P<bare>\w[\w.+/%°-]{{0,40}})")
_BETWEEN: Final = re.compile(r"\s*(?:,\s*(?:and|or)\b|[,|;]|\b(?:or|and)\b)")
_MOST_OFFERED: Final = 40
_BOUNDS: Final = {
    "minLength": r"(?:at least|minimum(?: length)?(?: of)?|more than)\s(\d{1,4})\s?(?:char|letter)",
    "maxLength": r"(?:at most|maximum(?: length)?(?: of)?|no (?:more|longer) than)\s(\d{1,4})\s?(?:char|letter)",
}
# Zod's issues, pydantic's lines, Ajv's sentences: a parameter, and which type it should have
_ISSUE: Final = re.compile(r"\{[^{}]{0,400}\}")
_EXPECTED: Final = re.compile(r"[\"']expected[\"']:\s{0,4}[\"'](\w{1,10})[\"']")
_AT: Final = re.compile(r"[\"']path[\"']:\s{0,4}\[\s{0,20}[\"'](\w{1,40})[\"']\s{0,20}\]")
_WRONG_TYPE: Final = (
    re.compile(r"^(\w{1,40})\s*\n\s*input should be a valid (\w+)", re.IGNORECASE | re.MULTILINE),
    re.compile(r"\b(?:data|args|arguments|params)[./](\w{1,40}) (?:must|should) be (?:an? )?(\w+)"),
)
_TYPES: Final[Mapping[str, dict[str, Any]]] = {
    "array": {"type": "array", "items": {"type": "string"}},
    "list": {"type": "array", "items": {"type": "string"}},
    "object": {"type": "object"},
    "dictionary": {"type": "object"},
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "boolean": {"type": "boolean"},
}
_A_DATE: Final = r"\bYYYY-MM-DD\b(?!T)"
_READ: Final = 4000
OPEN: Final = "x-open"
"""Of an object's schema: it takes members of which the schema says nothing."""


def offered(text: str) -> tuple[str, ...]:
    """Return the values that a text says are taken: `must be one of: a, b`; at least two or none."""
    text = text[:_READ]
    for cue in _CUE.finditer(text):
        found = _listed(text, cue.end(), _QUOTED if cue["quoted"] else _ITEM)
        ends = text.find("\n", cue.start(), cue.end())
        if len(found) < 2 and ends >= 0:
            found = _on_lines(text[ends + 1 :])
        if len(found) > 1:
            return found
    return ()


def shown(tool: Tool) -> Tool:
    """Return a tool whose open objects have the members that its descriptions show in JSON.

    Also an action that is any text has the values that its description lists.
    """
    return replace(tool, schema=_shown(tool.schema, tool.description, 0))


def heeded(tool: Tool, refused: Iterable[tuple[Mapping[str, Any], str]]) -> Tool | None:
    """Return a tool that offers what its refusals list, or None where they list nothing new.

    Args:
        tool: It.
        refused: Arguments of each refused call, and what was answered.
    """
    schema: Mapping[str, Any] = tool.schema
    for arguments, text in refused:
        for path, _ in list(_texts(schema, arguments, ())):
            if bounds := _bounds(path[-1], text[:_READ]):
                schema = _with(schema, path, bounds, arguments)
        schema = _retyped(schema, text[:_READ])
        values = offered(text)
        for path in _meant(schema, arguments, text) if values else ():
            schema = _with(schema, path, {"enum": list(values)}, arguments)
    return replace(tool, schema=schema) if schema != tool.schema else None


def _bounds(name: str, text: str) -> dict[str, Any]:
    """Return what a refusal says of the length and the form of one text, as its schema would."""
    start = rf"\b{re.escape(name)}\b[^.;\n]{{0,40}}?"
    found: dict[str, Any] = {}
    for bound, pattern in _BOUNDS.items():
        told = re.search(start + pattern, text, re.IGNORECASE)
        if told is not None:
            found[bound] = int(told[1])
    if re.search(start + _A_DATE, text):
        found["format"] = "date"
    return found


def _retyped(schema: Mapping[str, Any], text: str) -> Mapping[str, Any]:
    """Return a schema whose parameters have the types that a refusal wants, where it has none or a text."""
    found = [pair for pattern in _WRONG_TYPE for pair in pattern.findall(text)]
    for issue in _ISSUE.findall(text):
        expected, at = _EXPECTED.search(issue), _AT.search(issue)
        if expected and at:
            found.append((at[1], expected[1]))
    for name, wanted in found:
        own = schema.get("properties")
        known = own.get(name, {}) if isinstance(own, dict) else {}
        kind = _TYPES.get(wanted.lower())
        if kind is None or known.get("type") not in (None, "string"):
            continue
        needed = schema.get("required")
        required = needed if isinstance(needed, list) else []
        schema = {
            **schema,
            "properties": {**(own if isinstance(own, dict) else {}), name: {**known, **kind}},
            "required": list(dict.fromkeys([*required, name])),
        }
    return schema


def _listed(text: str, at: int, of: re.Pattern[str]) -> tuple[str, ...]:
    found: list[str] = []
    while len(found) < _MOST_OFFERED:
        item = of.match(text, at)
        if item is None:
            break
        given = item.groupdict()
        found.append((given["item"] or given["bare"]).rstrip("."))
        at = item.end()
        between = _BETWEEN.match(text, at)
        if between is None:
            break
        at = between.end()
    return tuple(dict.fromkeys(found))


def _on_lines(text: str) -> tuple[str, ...]:
    """Return what stands first on each line of a list; lines further in belong to the one above."""
    found: list[str] = []
    margin = -1
    for line in filter(str.strip, text.splitlines()):
        entry = _LINE.fullmatch(line)
        inside = len(line) - len(line.lstrip())
        if margin >= 0 and inside > margin:
            continue
        if entry is None or margin not in (-1, inside) or len(found) == _MOST_OFFERED:
            break
        margin = inside
        found.append(entry["item"])
    return tuple(dict.fromkeys(found))


def _meant(
    schema: Mapping[str, Any], arguments: Mapping[str, Any], text: str
) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the text parameters that a refusal is about: their value is in it, or their name."""
    places = list(_texts(schema, arguments, ()))
    said = [path for path, value in places if value and value in text]
    named = [
        path
        for path, value in places
        if not value and re.search(rf"\b{re.escape(path[-1])}\b", text, re.IGNORECASE)
    ]
    yield from said[:1] or named[:1]


def _texts(
    schema: Mapping[str, Any], given: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield path and given value of each text parameter without an enumeration, objects gone into."""
    own = _members_of(schema, given)
    for name, inner in own.items():
        if not isinstance(inner, dict):
            continue
        value = given.get(name) if isinstance(given, dict) else None
        if _members_of(inner, value):
            yield from _texts(inner, value, (*path, name))
        elif inner.get("type") in ("string", None) and "enum" not in inner:
            yield (*path, name), value if isinstance(value, str) else ""


def _members_of(schema: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """Return the properties of an object; of an open one, the texts that it was given."""
    told = schema.get("properties")
    own: dict[str, Any] = told if isinstance(told, dict) else {}
    opened = schema.get(OPEN) or (schema.get("type") == "object" and not own)
    if not opened or not isinstance(given, dict):
        return own
    more = [name for name, value in given.items() if isinstance(value, str) and name not in own]
    return {**own, **{name: {"type": "string"} for name in more}} if more else own


def _with(
    schema: Mapping[str, Any], path: Sequence[str], more: Mapping[str, Any], given: Any
) -> dict[str, Any]:
    """Return a schema that says more of the parameter at `path`, which is needed."""
    own = _members_of(schema, given)
    if own is not schema.get("properties"):  # what an open object was given, it needs
        schema = {**schema, "required": list(own), OPEN: True}
    value = given.get(path[0]) if isinstance(given, dict) else None
    inner = _with(own[path[0]], path[1:], more, value) if path[1:] else {**own[path[0]], **more}
    needed = schema.get("required")
    required = list(needed) if isinstance(needed, list) else []
    return {
        **schema,
        "properties": {**own, path[0]: inner},
        "required": required if path[0] in required else [*required, path[0]],
    }


def _shown(schema: Mapping[str, Any], told: str, depth: int) -> Mapping[str, Any]:
    own = schema.get("properties")
    if not isinstance(own, dict) or depth > 2:
        return schema
    changed: dict[str, Any] = {}
    for name, inner in own.items():
        if not isinstance(inner, dict):
            continue
        about = f"{inner.get('description', '')}\n{told}"
        if inner.get("type") == "object" and not inner.get("properties"):
            members = _members(about)
            if members:
                changed[name] = {**inner, **members}
        elif inner.get("type") == "string" and "enum" not in inner and chooses(name):
            values = offered(str(inner.get("description", "")))
            if values:
                changed[name] = {**inner, "enum": list(values)}
    return {**schema, "properties": {**own, **changed}} if changed else schema


def _members(about: str) -> dict[str, Any]:
    """Return the schema of an object of which a text shows examples, or an empty one."""
    found: list[dict[str, Any]] = []
    for text in _EXAMPLE.findall(about)[:_MOST_EXAMPLES]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and value:
            found.append(value)
    values: dict[str, list[Any]] = {}
    for example in found:
        for name, value in example.items():
            values.setdefault(name, []).append(value)
    if not values:
        return {}
    return {
        "properties": {
            name: {**schema, BESIDE: _beside(found, name)} if "enum" in schema else schema
            for name, of in values.items()
            for schema in (_of(name, of),)
        },
        "required": [name for name, of in values.items() if len(of) == len(found)],
    }


def _of(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return the schema of a member that has these values in examples."""
    first = values[0]
    if isinstance(first, bool):
        return {"type": "boolean", "default": first}
    if isinstance(first, (int, float)):
        return {"type": "integer" if isinstance(first, int) else "number", "default": first}
    if isinstance(first, list):
        return {"type": "array", "items": {"type": "string"}}
    if not isinstance(first, str):
        return {"type": "object"}
    words = list(dict.fromkeys(value for value in values if isinstance(value, str)))
    if chooses(name) and len(words) > 1 and all(_WORD.fullmatch(word) for word in words):
        return {"type": "string", "enum": words}
    return {"type": "string", "examples": words[:3]}


def _beside(examples: Sequence[Mapping[str, Any]], name: str) -> dict[str, list[list[str]]]:
    """Return the members of each example, by its value of one of them."""
    found: dict[str, list[list[str]]] = {}
    for example in examples:
        if isinstance(value := example.get(name), str):
            found.setdefault(value, []).append(list(example))
    return found
