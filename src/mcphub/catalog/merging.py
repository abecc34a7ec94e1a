"""Adds servers to the text of `mcp_settings.json` and leaves the rest as its author wrote it.

Text is inserted, comments and order stay; then both texts are parsed and compared, so that an
insertion that went wrong is an error and never a broken file. Pure: reading and writing the file is
the caller's business.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcphub.catalog.jsonc import JsoncError, parse, tokens
from mcphub.errors import Conflict, InvalidInput

_ROOTS = ("mcpServers", "servers")


@dataclass(frozen=True, slots=True)
class _Place:
    """The servers object in the text: end of its last piece, of its last remark, and its brace."""

    last: int
    remark: int
    brace: int
    needs_comma: bool


def entry_names(text: str) -> frozenset[str]:
    """Return the names of the servers in a settings text.

    Raises:
        InvalidInput: The text is no settings file.
    """
    document = _document(text)
    return frozenset(
        name for root in _ROOTS if isinstance(document.get(root), dict) for name in document[root]
    )


def merge_entries(text: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings text with further servers at the end of its servers object.

    Raises:
        InvalidInput: The text is no settings file, or cannot be added to.
        Conflict: A server of such a name is there already.
    """
    old = _document(text)
    root = next((key for key in _ROOTS if isinstance(old.get(key), dict)), None)
    if root is None:
        raise InvalidInput(
            'The settings have no "mcpServers" object.', hint='Write {"mcpServers": {}} into them.'
        )
    taken = sorted(set(old[root]) & set(entries))
    if taken:
        raise Conflict(
            f"There is already a server '{taken[0]}'."
            if len(taken) == 1
            else f"There are already servers of these names: {', '.join(taken)}.",
            hint="Choose another name, or edit the file; an import can leave them out: --skip-existing.",
        )
    if not entries:
        return text
    place = _servers_object(text, root)
    made = _inserted(text, place, entries) if place is not None else ""
    wanted = {**old, root: {**old[root], **entries}}
    if made == "" or json.dumps(_document(made)) != json.dumps(wanted):
        raise InvalidInput(
            "The settings could not be added to without changing the rest.",
            hint="Add the server with an editor.",
        )
    return made


def _document(text: str) -> dict[str, Any]:
    try:
        document = parse(text)
    except JsoncError as error:
        raise InvalidInput(f"The settings cannot be read: {error.message}") from None
    if not isinstance(document, dict):
        raise InvalidInput("The settings are no object.", hint='Write {"mcpServers": {}}.')
    return document


def _inserted(text: str, place: _Place, entries: Mapping[str, Mapping[str, Any]]) -> str:
    line = text[text.rfind("\n", 0, place.brace) + 1 : place.brace]
    outer = line if not line.strip() else "  "
    inner = outer + "  "
    added = ",\n".join(
        f"{inner}{json.dumps(name)}: "
        + json.dumps(entry, indent=2, ensure_ascii=False).replace("\n", f"\n{inner}")
        for name, entry in entries.items()
    )
    comma = "," if place.needs_comma else ""
    head = text[: place.last] + comma + text[place.last : place.remark]
    return f"{head}\n{added}\n{outer}{text[place.brace :]}"


def _servers_object(text: str, root: str) -> _Place | None:
    """Find the object under the key `root` of the outermost object."""
    depth, key, before, last, inside = 0, "", "", 0, False
    for token in tokens(text):
        if token.kind in {"space", "comment"}:
            continue
        if token.kind == "mark" and token.text in "{[":
            inside = inside or (depth == 1 and before == ":" and key == root)
            depth += 1
        elif token.kind == "mark" and token.text in "}]":
            depth -= 1
            if inside and depth == 1:
                remark = _remark_end(text, last, token.start)
                return _Place(last, remark, token.start, before not in {"{", ","})
        elif token.kind == "string" and depth == 1 and before in {"{", ","}:
            key = json.loads(token.text)
        before, last = token.text, token.end
    return None


def _remark_end(text: str, start: int, end: int) -> int:
    """End of the last comment between two places, or `start` where there is none."""
    found = [token.end for token in tokens(text[start:end]) if token.kind == "comment"]
    return start + found[-1] if found else start
