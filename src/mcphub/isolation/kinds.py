"""The parameters of a tool, and what each probably wants, told by name, schema and description. Pure."""

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from mcphub.isolation.surface import Rank, Tool, words_of


class Kind(StrEnum):
    """What a text parameter probably wants."""

    SQL = "sql"
    CODE = "code"
    COMMAND = "command"
    EXPRESSION = "expression"
    URL = "url"
    DIRECTORY = "directory"
    FILE = "file"
    FILE_NAME = "file-name"
    PATTERN = "pattern"
    DATE = "date"
    TIME = "time"
    WHEN = "date-time"
    TIMEZONE = "timezone"
    EMAIL = "email"
    LANGUAGE = "language"
    PLACE = "place"
    COUNTRY = "country"
    QUERY = "query"
    CONTENT = "content"
    IDENTIFIER = "identifier"
    NAME = "name"


PATHS: Final = frozenset({Kind.DIRECTORY, Kind.FILE, Kind.FILE_NAME})
TEMPLATES: Final = frozenset({Kind.SQL, Kind.CODE, Kind.COMMAND, Kind.EXPRESSION})
"""Kinds that are small languages: several statements are tried, not one value."""

_DEEPEST: Final = 8
_SQL_TEXT: Final = re.compile(
    r"\bsql\b|\bselect\b.{0,40}\bquery\b|\bquery\b.{0,60}\bdatabase", re.IGNORECASE
)
_CODE_TEXT: Final = re.compile(r"\b(python|javascript|typescript|node(js)?|code)\b", re.IGNORECASE)
_FORMATS: Final = {
    "date": Kind.DATE,
    "date-time": Kind.WHEN,
    "time": Kind.TIME,
    "uri": Kind.URL,
    "url": Kind.URL,
    "email": Kind.EMAIL,
}
# The first group that has a word of the parameter's name decides.
_BY_WORD: Final = (
    (Kind.SQL, "sql statement"),
    (Kind.CODE, "code script source_code program"),
    (Kind.COMMAND, "command cmd"),
    (Kind.EXPRESSION, "expression formula equation"),
    (Kind.URL, "url uri link href endpoint webpage"),
    (Kind.TIMEZONE, "timezone tz zone"),
    (Kind.EMAIL, "email mail"),
    (Kind.PATTERN, "pattern regex glob"),
    (Kind.LANGUAGE, "language lang locale"),
    (Kind.COUNTRY, "country"),
    (Kind.PLACE, "city location address place origin region"),
    (Kind.CONTENT, "content contents text body message description note notes observation "
                   "observations comment insight thought summary value data prompt details"),
    (Kind.QUERY, "query search keyword keywords term terms question jql cql q"),
)  # fmt: skip
_DIRECTORY: Final = frozenset(
    [
        "dir",
        "directory",
        "folder",
        "root",
        "repo",
        "repository",
        "cwd",
        "workspace",
        "workdir",
        "base",
    ]
)
_NO_PATHS: Final = frozenset(
    [
        "key",
        "keys",
        "ids",
        "size",
        "format",
        "count",
        "hash",
        "encoding",
        "owner",
        "version",
        "token",
    ]
)
_NAMES_OF_DIRECTORY_TOOLS: Final = frozenset(
    [
        "directory",
        "dir",
        "folder",
        "tree",
        "repo",
        "repository",
        "git",
        "working",
        "workspace",
        "directories",
    ]
)


_WHEN: Final = frozenset(["time", "datetime", "timestamp", "since", "until", "due"])


def kind_of(name: str, schema: Mapping[str, Any], tool: str, about: str) -> Kind:
    """Return the kind of a text parameter.

    Args:
        name: Of the parameter.
        schema: Of the parameter.
        tool: Name of its tool.
        about: The tool's description.
    """
    words = _first_of(words_of(name))
    own = f"{name} {schema.get('description', '')} {schema.get('title', '')}"
    given = schema.get("format")
    if isinstance(given, str) and given in _FORMATS:
        return _FORMATS[given]
    if _is_sql(words, own, tool, about):
        return Kind.SQL
    path = _path(words, own, tool)
    if path is not None:
        return path
    if {"date"} & set(words):
        return Kind.DATE
    if "id" in words or name.endswith(
        ("Id", "ID", "_id", "Ids", "IDs", "ids", "pid", "key", "Key")
    ):
        return Kind.IDENTIFIER
    for kind, telling in _BY_WORD:
        if not set(telling.split()).isdisjoint(words):
            if kind is Kind.CODE and not _CODE_TEXT.search(own + tool + about):
                continue
            return kind
    if not _WHEN.isdisjoint(words):
        return Kind.TIME if "time" in words and "HH" in own else Kind.WHEN
    return Kind.NAME


def _first_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of the first thing that a parameter such as `title_or_url` takes."""
    return words[: words.index("or", 1)] if "or" in words[1:] else words


def _is_sql(words: tuple[str, ...], own: str, tool: str, about: str) -> bool:
    if "sql" in words or "statement" in words:
        return True
    if not {"query", "q", "expression", "command"} & set(words):
        return False
    return bool(_SQL_TEXT.search(f"{own} {tool.replace('_', ' ')} {about}"))


def _path(words: tuple[str, ...], own: str, tool: str) -> Kind | None:
    """Return the kind of path that a parameter is, or None when it is none."""
    known = set(words)
    if {"pattern", "patterns", "glob", "content", "contents", "id", "type", "mode"} & known:
        return None
    if words and words[-1] in _NO_PATHS:
        return None
    file_name = (
        {"filename", "filenames"} & known
        or ("file" in known and "name" in known)
        or ("document" in known and {"name", "path"} & known)
    )
    if file_name and "path" not in known:
        return Kind.FILE_NAME
    is_directory = bool(known & _DIRECTORY) and not ({"name", "url", "owner"} & known)
    if "path" in known or "paths" in known or "filepath" in known:
        if is_directory:
            return Kind.DIRECTORY
        telling = set(words_of(tool)) & _NAMES_OF_DIRECTORY_TOOLS
        hints_file = "file" in known or "file" in words_of(tool)
        return Kind.DIRECTORY if telling and not hints_file else Kind.FILE
    if is_directory and re.search(r"path|director|folder|\bcwd\b|work_?dir", own, re.IGNORECASE):
        return Kind.DIRECTORY
    if known & {"file", "files", "source", "destination"} and re.search(
        r"path|file", own, re.IGNORECASE
    ):
        return Kind.FILE
    return None


def silent(tool: Tool, *, needed: bool) -> bool:
    """Tell whether a parameter that is a small language is of other deeds of the tool than this one."""
    return (
        bool(tool.deed) and not needed and tool.rank is Rank.OBSERVE and "query" not in tool.words
    )


def properties_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a schema of an object, or none."""
    found = schema.get("properties")
    return found if isinstance(found, dict) else {}


def enums(tool: Tool) -> Iterator[list[Any]]:
    """Yield the enumerations among the required parameters."""
    required = tool.schema.get("required")
    for name in required if isinstance(required, list) else []:
        inner = properties_of(tool.schema).get(name)
        if isinstance(inner, dict) and isinstance(inner.get("enum"), list):
            yield inner["enum"]


def parameters(tool: Tool) -> list[tuple[str, Kind, bool]]:
    """Return (name, kind, required) of every text parameter, nested ones too."""
    found: list[tuple[str, Kind, bool]] = []

    def walk(schema: Any, name: str, needed: bool, depth: int) -> None:
        if not isinstance(schema, dict) or depth > _DEEPEST:
            return
        for key in ("anyOf", "oneOf", "allOf"):
            for option in schema.get(key) or []:
                walk(option, name, needed, depth + 1)
        if isinstance(schema.get("$ref"), str):
            target: Any = tool.schema
            for part in schema["$ref"].removeprefix("#/").split("/"):
                target = target.get(part, {}) if isinstance(target, dict) else {}
            walk(target, name, needed, depth + 2)
        required = set(schema.get("required") or [])
        for key, inner in properties_of(schema).items():
            walk(inner, key, needed and key in required, depth + 1)
        if isinstance(schema.get("items"), dict):
            walk(schema["items"], name, needed, depth + 1)
        given = schema.get("type")
        texts = given == "string" or (isinstance(given, list) and "string" in given)
        if name and texts and not schema.get("enum"):
            kind = kind_of(name, schema, tool.name, tool.description)
            found.append((name, kind, needed))

    walk(tool.schema, "", True, 0)
    return [one for one in found if not (one[1] in TEMPLATES and silent(tool, needed=one[2]))]
