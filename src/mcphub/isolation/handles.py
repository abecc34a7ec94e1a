"""Handles: ids, names and paths that a server's answers mention, by what they are called there.

What one call returns is what another one wants (`requestId` of a list, `pid` of a start). Values are
kept per user and per run.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from mcphub.isolation.surface import words_of

_LABELLED: Final = re.compile(
    r"[\"'`*]*\b([A-Za-z][A-Za-z_ ]{0,24}?)[\"'`*]*\s*[:=#]\s*[\"'`*]*([\w@./:-]{1,120})"
)
_QUOTED: Final = re.compile(r"[\"'`]([\w@./:-]{2,120})[\"'`]")
_ENTRY: Final = re.compile(
    r"^\s*(?:[-*•]|\d+[.)])\s+[\"'`*]*([\w@./:-]{1,120})[\"'`*]*\s*$", re.MULTILINE
)
# a whole answer that is a made-up word: the id of what was started
_ALONE: Final = re.compile(r"\s*[\"'`]?((?=[\w.:/-]*\d)[\w.:/-]{3,120})[\"'`]?\s*")
_NO_NAMES: Final = frozenset(["result", "results", "items", "data", "list", "values", "entries"])
_KEPT: Final = 24
_NESTED: Final = 12
_TEXT: Final = 200_000


class Handles:
    """Values by normalised name, newest last."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}
        self._quoted: list[str] = []

    def know(self, values: Mapping[str, str]) -> None:
        """Take values by their names."""
        for name, value in values.items():
            self._keep(name, value)

    def learn(self, text: str, noun: str = "") -> None:
        """Take what an answer mentions: JSON members, also inside of texts, and `name: value` words.

        Args:
            text: The answer.
            noun: What the entries of a list without names are, such as `projects`.
        """
        text = text[:_TEXT]
        for value in _documents(text):
            for name, found in _members(value, noun, 0):
                self._keep(name, found)
        for found in _ENTRY.findall(text)[:_KEPT] if noun else ():
            self._keep(noun.rstrip("s"), found)
        alone = _ALONE.fullmatch(text)
        if alone is not None:
            self._keep("id", alone[1])
        for name, found in _LABELLED.findall(text):
            self._keep(name, found)
        for found in _QUOTED.findall(text):
            if found not in self._quoted:
                self._quoted.append(found)
                del self._quoted[:-_KEPT]

    def fitting(self, parameter: str, tool: str) -> list[str]:
        """Return values for a parameter, the most fitting and newest first."""
        words = words_of(parameter)
        keys = ["".join(words), "".join(words).rstrip("s")]
        if words and words[-1] in {"id", "ids"}:
            keys += ["id", f"{''.join(words[:-1])}"]
        if words and words[-1] in {"name", "names"}:
            keys += ["name", "".join(words[:-1])]
        if words and words[-1] in {"id", "name"} and len(words) == 1:
            keys += [f"{word}{words[-1]}" for word in words_of(tool)]
            keys += list(words_of(tool))
        found: list[str] = []
        for key in keys:
            found += reversed(self._values.get(key, []))
        return list(dict.fromkeys(found))

    def quoted(self) -> list[str]:
        """Return what stood in quotation marks, the first ones first."""
        return list(self._quoted)

    def everything(self) -> list[str]:
        """Return all values, newest last."""
        return list(dict.fromkeys(value for values in self._values.values() for value in values))

    def _keep(self, name: str, value: str) -> None:
        key = "".join(words_of(name.strip().rsplit(" ", 1)[-1]))
        if not key or len(value) > 200:
            return
        kept = self._values.setdefault(key, [])
        if value in kept:
            kept.remove(value)
        kept.append(value)
        del kept[:-_KEPT]


def _documents(text: str) -> Iterator[Any]:
    """Yield the JSON values in a text: the whole, its lines, or the largest bracketed part."""
    whole = _parsed(text)
    if whole is not None:
        yield whole
        return
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            part = _parsed(text[start : end + 1])
            if part is not None:
                yield part
                return
    for line in text.splitlines()[:200]:
        if line.startswith(("{", "[")):
            part = _parsed(line)
            if part is not None:
                yield part


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


def _members(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if depth > _NESTED:
        return
    if isinstance(value, dict):
        for key, inner in list(value.items())[:200]:
            named = name if isinstance(inner, list) and key in _NO_NAMES and name else str(key)
            yield from _members(inner, named, depth + 1)
            listed = name.lower().endswith("s") and key not in _NO_NAMES
            if isinstance(inner, (dict, list)) and listed:
                yield name.rstrip("s"), str(key)  # {"projects": {"x": {…}}}
    elif isinstance(value, list):
        for inner in value[:50]:
            yield from _members(inner, name.rstrip("s"), depth + 1)
    elif isinstance(value, str) and value[:1] in "{[" and (inner := _parsed(value)) is not None:
        yield from _members(inner, name, depth + 1)
    elif isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        yield name, str(value)
