"""Sets members of one server in the text of `mcp_settings.json`; comments and order stay.

Like `merging`, it edits text and then compares what both texts say. Pure.
"""

import json
from collections.abc import Mapping
from typing import Any

from mcphub.catalog.jsonc import JsoncError, Token, parse, tokens
from mcphub.errors import InvalidInput, NotFound

_ROOTS = ("mcpServers", "servers")


def patch_entry(text: str, name: str, members: Mapping[str, Any]) -> str:
    """Return the settings text with these members of a server set.

    Raises:
        NotFound: The file has no such server.
        InvalidInput: The text cannot be read or not be changed so.
    """
    old = _document(text)
    root = next((key for key in _ROOTS if isinstance(old.get(key), dict)), "")
    if name not in old.get(root, {}):
        raise NotFound(f"The settings have no server '{name[:64]}'.")
    made = text
    for key, value in members.items():
        made = _set(made, (root, name), key, value)
    wanted = {**old, root: {**old[root], name: {**old[root][name], **members}}}
    if _document(made) != wanted:
        raise InvalidInput(
            "The settings could not be changed without changing the rest.",
            hint=f"Write it with an editor: {json.dumps(dict(members))}",
        )
    return made


def _document(text: str) -> dict[str, Any]:
    try:
        document = parse(text)
    except JsoncError as error:
        raise InvalidInput(f"The settings cannot be read: {error.message}") from None
    return document if isinstance(document, dict) else {}


def _set(text: str, parent: tuple[str, ...], key: str, value: Any) -> str:
    """Replace or add one member of the object at a path of keys."""
    spans = _spans(text)
    written = json.dumps(value, ensure_ascii=False)
    known = spans.get((*parent, key))
    if known is not None:
        return f"{text[: known[0]]}{written}{text[known[1] :]}"
    start, end = spans[parent]
    inside = [t for t in tokens(text[start + 1 : end - 1]) if t.kind not in {"space", "comment"}]
    first = next((t for t in inside if t.kind == "string"), None)
    indent = _indent(text, start + 1 + first.start) if first else None
    joined = f"{json.dumps(key)}: {written}"
    if indent is None:
        return f"{text[: start + 1]}{joined}{', ' if inside else ''}{text[start + 1 :]}"
    return f"{text[: start + 1]}\n{indent}{joined},{text[start + 1 :]}"


def _indent(text: str, at: int) -> str | None:
    """Return the white space before a place that is the first of its line, else None."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line if not line.strip() and "\n" in text[:at] else None


def _spans(text: str) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return where the value of each path of keys stands; members of lists have no path."""
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    path: list[str] = []
    starts: list[tuple[str, int, int]] = []  # bracket, place, length of the path
    key = ""
    before = Token("mark", "", 0, 0)
    for token in tokens(text):
        if token.kind in {"space", "comment"}:
            continue
        in_object = bool(starts) and starts[-1][0] == "{"
        if token.kind == "mark" and token.text in "{[":
            starts.append((token.text, token.start, len(path)))
            if in_object or not starts[:-1]:
                path += [key] if before.text == ":" else []
        elif token.kind == "mark" and token.text in "}]":
            bracket, start, length = starts.pop()
            if len(path) > length or bracket == "{":
                found.setdefault(tuple(path), (start, token.end))
            del path[length:]
        elif in_object and before.text in {"{", ","} and token.kind == "string":
            key = json.loads(token.text)
        elif in_object and before.text == ":":
            found[(*path, key)] = (token.start, token.end)
        before = token
    return found
