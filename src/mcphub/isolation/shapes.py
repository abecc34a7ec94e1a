"""Texts in the shape that a schema or a description asks for: length, pattern, JSON. Pure.

Schemas come from the server under check: nothing of them may cost more than a moment.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcphub.isolation.canaries import mint
from mcphub.isolation.surface import words_of

# Tried where a pattern does not fit what would be said.
_SHAPES: Final = (
    "1", "12345", "1.0.0", "1:2", "2026-02-03", "10:30", "abc123", "ABC", "ABC-123", "en-US", "#336699",
    "a/b", "https://pages.example.com/x", "a@example.com", "+491234567", "10m",
)  # fmt: skip
_A_UUID: Final = "3f2b8c1a-5d4e-4f60-9a7b-8c9d0e1f2a3b"
_FILLER: Final = "as it was said before, and as it is known to both of us, no more and no less. "
_SHORT: Final = frozenset(["name", "title", "id", "key", "type", "label", "tag", "path"])
_LONG: Final = 240
_MOST_FILLED: Final = 4000
_LONGEST_PATTERN: Final = 200
_REPEATED_GROUP: Final = re.compile(r"\)[*+{]|\\[1-9]")
_UNBOUNDED: Final = re.compile(r"[*+]|\{\d*,\d*\}")
_MOST_UNBOUNDED: Final = 3
_OPTIONAL: Final = re.compile(r"(?<![(*+?}])\?")
_MOST_OPTIONAL: Final = 3
# Backtracking costs the text's length to the power of the repetitions, and twice as much for each `?`.
_LONGEST_TRIED: Final = 64
_EXAMPLE: Final = re.compile(r"\{[^{}]{3,2000}")
_KEY: Final = re.compile(r"[{,]\s*['\"]?(\w+)['\"]?\s*:\s*(\S)")
_SHOWN: Final = re.compile(
    r"(?:\be\.g\.?|\bexamples?:?|\bsuch as|\blike|\bformat\b:?|例如|比如)[,:\uff1a(\uff08\s]*"
    r"(?:([\"'`])(?P<quoted>[^\"'`\n]{1,60})\1|(?P<bare>[^\s'\"`,;()\uff08\uff09\u3002\uff0c\uff1b]{1,60}))",
    re.IGNORECASE,
)
# lines such as `- iso: 2024-12-10T…`: the words that are taken, each with what it means
_LISTED: Final = re.compile(
    r"^[ \t]*[-*\u2022][ \t]{1,4}[\"'`]?(\w[\w.-]{0,40})[\"'`]?[ \t]?(?::|\u2014|\u2013|-[ \t])",
    re.MULTILINE,
)


def example_of(about: str) -> str:
    """Return the first of the words that a description lists, or its first example, or an empty text."""
    listed = _LISTED.findall(about)
    if len(listed) > 1:
        return listed[0]
    shown = _SHOWN.search(about)
    return (shown["quoted"] or shown["bare"]).rstrip(".") if shown else ""


def fitted(text: str, schema: Mapping[str, Any], *, long: bool) -> str:
    """Return a text within the bounds of its schema; unchanged where that cannot be told.

    Args:
        text: What would be said.
        schema: JSON Schema of a string.
        long: Make it long where the schema names no least length.
    """
    longest, shortest = schema.get("maxLength"), schema.get("minLength")
    if long and not isinstance(shortest, int):
        shortest = min(_LONG, longest) if isinstance(longest, int) else _LONG
    if isinstance(shortest, int) and len(text) < shortest <= _MOST_FILLED:
        filler = _FILLER * (shortest // len(_FILLER) + 1)
        text = f"{text} {filler}"[: max(shortest, len(text) + 1)]
    if isinstance(longest, int) and len(text) > longest:
        text = text[-longest:] if longest >= len(mint()) else text[:longest]
    pattern = _simple(schema.get("pattern"))
    if pattern is None or len(text) > _LONGEST_TRIED or pattern.search(text):
        return text
    tries = (text.upper(), text[:12], text[:6], *_SHAPES)
    return next((one for one in tries if pattern.search(one)), text)


def wants_uuid(schema: Mapping[str, Any], text: str) -> bool:
    """Tell whether a schema takes UUIDs and not just any text."""
    if schema.get("format") == "uuid":
        return True
    pattern = _simple(schema.get("pattern"))
    if pattern is None or len(text) > _LONGEST_TRIED:
        return False
    return not pattern.search(text) and bool(pattern.search(_A_UUID))


def json_like(about: str, mark: Callable[[], str]) -> str:
    """Return JSON with the keys of a description's example, or with usual ones.

    Args:
        about: The description.
        mark: Returns a word for each text of it.
    """
    example = _EXAMPLE.search(about)
    told = _KEY.findall(example[0]) if example else []
    thing: dict[str, Any] = {}
    for key, start in told or [("name", "'"), ("title", "'"), ("content", "'")]:
        if key in thing:
            continue
        if start in "[{":
            thing[key] = [] if start == "[" else {}
        elif start.isdigit() or start == "-":
            thing[key] = 1
        else:
            named = not _SHORT.isdisjoint(words_of(key))
            thing[key] = mark() if named else f"{mark()} {_FILLER}"
    alone = example is not None and "[" not in about[: example.start()]
    return json.dumps(thing if alone else [thing])


def _simple(pattern: object) -> re.Pattern[str] | None:
    """Return a pattern, when it is sure to be tried in no time: the server chose it."""
    if not isinstance(pattern, str) or len(pattern) > _LONGEST_PATTERN:
        return None
    if _REPEATED_GROUP.search(pattern) or len(_UNBOUNDED.findall(pattern)) > _MOST_UNBOUNDED:
        return None
    if len(_OPTIONAL.findall(pattern)) > _MOST_OPTIONAL:
        return None
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None
