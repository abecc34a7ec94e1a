"""Arguments for a tool that nobody knows, from its JSON Schema. Pure but for canaries.

Composing a `Recipe` again gives the same choice with new canaries. User A's texts hold canaries; user B's are plain words, the same in every run.
"""

import re
import secrets
import shlex
import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from mcphub.isolation import dialects, numbers, samples, shapes, walking
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.handles import Handles
from mcphub.isolation.kinds import (
    PATHS,
    TEMPLATES,
    Kind,
    kind_of,
    parameters,
    properties_of,
    silent,
)
from mcphub.isolation.offers import OPEN
from mcphub.isolation.oracle import DAY_OF_A
from mcphub.isolation.recipe import Recipe, about, explained, language, put
from mcphub.isolation.surface import Rank, Tool, looks_destructive, words_of
from mcphub.isolation.territory import Territory

_DEEPEST: Final = 8
_EXTENSION: Final = re.compile(
    r"\.(docx|xlsx|pptx|ipynb|pdf|md|txt|json|ya?ml|csv|html|db|sqlite|py|js|xml)\b"
)
# Given where a schema says nothing and the call without arguments is refused.
_USUAL: Final = (
    "query", "search", "q", "id", "name", "title", "project_id", "owner", "repo", "path", "file_path",
    "url", "text", "content", "message", "description", "branch", "ref",
)  # fmt: skip
_NUMBER: Final = "12345"  # what many services call a thing by
_SETTING: Final = frozenset(
    ["set", "configure", "config", "toggle", "enable", "use", "switch", "update"]
)
_SHOWS: Final = frozenset(["show", "include", "verbose", "with", "detail", "detailed", "details"])
_ARGUMENTS: Final = frozenset(["args", "arguments", "argv", "params", "parameters"])


@dataclass(frozen=True, slots=True)
class Planted:
    """What is known of a canary.

    Attributes:
        tool: Tool that it was given to; empty for files and credentials.
        parameter: Parameter, or what else it stands in.
        kind: Kind of the parameter, as text; `seed`, `outside` or `credential`.
        handle: It is a name or an id, which may be told; else content.
        reads: The tool promises to read only, so nothing of the call should be kept.
        path: The call had a path among its arguments.
    """

    tool: str
    parameter: str
    kind: str
    handle: bool = False
    reads: bool = False
    path: bool = False


@dataclass(frozen=True, slots=True)
class Words:
    """What both users know: names that are no secret, new for each check.

    Attributes:
        plain: Word in all of B's texts.
        variable: Name for variables, files and locks.
        number: Number for locks and counters.
    """

    plain: str
    variable: str
    number: int

    @classmethod
    def new(cls) -> "Words":
        """Return the words of one check."""
        return cls(f"b{mint()[:9]}", f"v{mint()[:9]}", 100 + secrets.randbelow(9000))


class Writer:
    """Composes arguments for one user.

    Args:
        user: `A` or `B`.
        words: What both know.
        territory: Where files are.
        canaries: Where A's canaries are noted.
        handles: Values from earlier answers of this run.

    Attributes:
        planted: Canaries of the last composition.
        plain_http: Addresses of the web are without TLS.
    """

    def __init__(
        self,
        user: str,
        words: Words,
        territory: Territory,
        canaries: Canaries[Planted],
        handles: Handles,
    ) -> None:
        self.user = user
        self.handles = handles
        self.planted: list[str] = []
        self.plain_http = False
        self._words = words
        self._territory = territory
        self._canaries = canaries

    def compose(self, tool: Tool, recipe: Recipe) -> dict[str, Any]:
        """Return arguments."""
        return _Composer(self, tool, recipe).arguments()

    def plant(self, about: Planted, canary: str = "") -> str:
        """Return a word for a text: a new canary for A, or the one given; the plain word for B."""
        if self.user == "B":
            return self._words.plain
        canary = self._canaries.plant(about, canary)
        self.planted.append(canary)
        return canary

    def asked(self, prompt: str, argument: str) -> str:
        """Return a word for an argument of a prompt, which promises to read only."""
        return self.plant(Planted(prompt, argument, Kind.QUERY.value, handle=True, reads=True))

    @property
    def words(self) -> Words:
        """What both know."""
        return self._words

    @property
    def territory(self) -> Territory:
        """Where files are."""
        return self._territory


class _Composer:
    """One composition."""

    def __init__(self, writer: Writer, tool: Tool, recipe: Recipe) -> None:
        self._writer, self._tool, self._recipe = writer, tool, recipe
        self._names = 0
        setting = tool.rank is Rank.CREATE and not _SETTING.isdisjoint(tool.words)
        self._departs = setting and recipe.optional and writer.user == "A"
        self._command: list[str] = []
        self._deep: Set[str] = frozenset()  # what is given and has its place inside of a parameter
        self._way: set[int] = set()
        self._has_statement = any(needed and k in TEMPLATES for _, k, needed in parameters(tool))
        self._has_path = any(kind in PATHS for _, kind, _ in parameters(tool))

    def arguments(self) -> dict[str, Any]:
        schema = self._resolved(self._tool.schema)
        fixed = dict(self._recipe.fixed)
        own = properties_of(schema)
        self._deep = fixed.keys() - own.keys()
        self._way = walking.way_to(self._tool.schema, self._deep)
        self._command = self._parted(fixed)
        given = self._object(schema, 0)
        if not own and self._recipe.optional:
            given = {name: self._text(name, {}) for name in _USUAL} | given
        for name, value in fixed.items():
            if name not in self._deep or not put(given, name, value):
                given[name] = value
        return given

    def _parted(self, fixed: dict[str, Any]) -> list[str]:
        """Return the words of a command, where program and arguments are parameters of their own.

        A fixed command is taken apart in `fixed`.
        """
        name = next((key for key, kind, _ in parameters(self._tool) if kind is Kind.COMMAND), "")
        own = walking.beside(self._tool.schema, name) if name else {}
        rest = next((inner for key, inner in own.items() if key.lower() in _ARGUMENTS), None)
        if self._resolved(rest).get("type") != "array":
            return []
        words = shlex.split(str(fixed.get(name) or self._statement(Kind.COMMAND, name)))
        if name in fixed:
            fixed[name] = words[0]
        return words

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = schema.get("required")
        needed = set(required) if isinstance(required, list) else set()
        found: dict[str, Any] = {}
        for name, inner in properties_of(schema).items():
            wanted = name in needed or self._is_statement(name, inner)
            wanted |= name == self._recipe.only and depth == 0
            wanted |= name in self._recipe.members
            wanted |= name in self._deep or id(inner) in self._way
            if wanted or (self._recipe.optional and self._harmless(name, inner, depth)):
                found[name] = self.value(name, self._resolved(inner), depth + 1)
        if schema.get(OPEN):
            missing = [name for name in self._recipe.members if name not in found]
            return found | {name: self.value(name, {}, depth + 1) for name in missing}
        if found or properties_of(schema):
            return found
        # an object of which the schema says nothing more
        others = schema.get("additionalProperties")
        inner = others if isinstance(others, dict) else {}
        names = self._recipe.members if others is not False else ()
        if not names and isinstance(others, dict) and depth:
            names = ("note",)
        return {name: self.value(name, self._resolved(inner), depth + 1) for name in names}

    def _is_statement(self, name: str, schema: Any) -> bool:
        """Tell whether a parameter is a small language: then it is given, required or not."""
        schema = self._resolved(schema)
        if schema.get("type") != "string" or "enum" in schema or self._has_statement:
            return False
        if silent(self._tool, needed=False):
            return False
        return kind_of(name, schema, self._tool.name, self._tool.description) in TEMPLATES

    def _harmless(self, name: str, schema: Any, depth: int) -> bool:
        """Tell whether an optional parameter is given: not what destroys, waits or goes deep."""
        return depth < 2 and not looks_destructive(name) and isinstance(schema, dict)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        return walking.resolved(self._tool.schema, schema)

    def value(self, name: str, schema: Mapping[str, Any], depth: int) -> Any:
        """Return a value for one parameter."""
        if depth > _DEEPEST:
            return None
        if "const" in schema:
            return schema["const"]
        enum = schema.get("enum")
        if isinstance(enum, list) and enum:
            return self._chosen(enum, schema)
        given = schema.get("type")
        kind = (
            next((t for t in given if t != "null"), "string") if isinstance(given, list) else given
        )
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(name, schema, depth)
            case "integer" | "number":
                return self._number(name, schema)
            case "boolean":
                return self._flag(name, schema)
            case "null":
                return None
        if kind is None and isinstance(schema.get("properties"), dict):
            return self._object(schema, depth)
        return self._text(name, schema)

    def _chosen(self, enum: Sequence[Any], schema: Mapping[str, Any]) -> Any:
        safe = [v for v in enum if not (isinstance(v, str) and looks_destructive(v))] or list(enum)
        default = schema.get("default")
        if default in safe:
            others = [value for value in safe if value != default]
            safe = [*others[:1], default] if self._departs else [default, *others]
        return safe[self._recipe.choice % len(safe)]

    def _array(self, name: str, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = schema.get("minItems")
        count = max(1, least if isinstance(least, int) else 1)
        items = self._resolved(schema.get("items"))
        kind = kind_of(name, items, self._tool.name, self._tool.description)
        if kind is Kind.COMMAND and items.get("type") == "string":
            return shlex.split(self._statement(kind, name))
        if self._command and name.lower() in _ARGUMENTS and items.get("type") == "string":
            return self._command[1:]
        return [self.value(name, items, depth + 1) for _ in range(min(count, 4))]

    def _number(self, name: str, schema: Mapping[str, Any]) -> float | int:
        words = set(words_of(name))
        low, high = schema.get("minimum"), schema.get("maximum")
        if words & {"latitude", "lat"}:
            return 48.5
        if words & {"longitude", "lon", "lng"}:
            return 9.5
        harvested = self._harvested(name) if words & {"id", "pid", "port"} else None
        if harvested is not None and harvested.lstrip("-").isdigit():
            return int(harvested)
        default = schema.get("default")
        if (
            isinstance(default, (int, float))
            and not isinstance(default, bool)
            and not words & numbers.FEW
        ):
            return numbers.beside(default, low, high) if self._departs else default
        wanted: float = numbers.likely(
            words, (4 if self._writer.user == "A" else 2) + self._recipe.choice
        )
        if isinstance(low, (int, float)):
            wanted = max(wanted, low)
        if isinstance(high, (int, float)):
            wanted = min(wanted, high)
        return int(wanted) if float(wanted).is_integer() else wanted

    def _flag(self, name: str, schema: Mapping[str, Any]) -> bool:
        default = schema.get("default")
        shows = self._recipe.optional and not _SHOWS.isdisjoint(words_of(name))
        wary = looks_destructive(name) or "dry" in name.lower()
        if isinstance(default, bool) and self._departs and not wary:
            return not default
        if isinstance(default, bool) and not shows:
            return default
        return not wary

    def _harvested(self, name: str) -> str | None:
        if self._recipe.handles < 0:
            return None
        fitting = self._writer.handles.fitting(name, self._tool.name)
        return fitting[self._recipe.handles % len(fitting)] if fitting else None

    def _text(self, name: str, schema: Mapping[str, Any]) -> str:
        kind = kind_of(name, schema, self._tool.name, self._tool.description)
        if kind in TEMPLATES:
            text = self._statement(kind, name)
            return self._command[0] if self._command and kind is Kind.COMMAND else text
        harvested = self._harvested(name) if kind not in {Kind.CONTENT, Kind.QUERY} else None
        if harvested is not None:
            return harvested
        if kind in PATHS:
            return self._path(kind, name, schema)
        default, examples = schema.get("default"), schema.get("examples")
        if kind not in {Kind.CONTENT, Kind.NAME, Kind.QUERY, Kind.IDENTIFIER}:
            if isinstance(default, str) and default:
                return default
            if isinstance(examples, list) and examples and isinstance(examples[0], str):
                return examples[0]
        if self._recipe.example and kind in {Kind.NAME, Kind.IDENTIFIER}:
            shown = shapes.example_of(str(schema.get("description", "")))
            shown = shown or (_NUMBER if kind is Kind.IDENTIFIER else "")
            if shown:
                return shown
        if self._recipe.as_json and kind in {Kind.CONTENT, Kind.NAME, Kind.QUERY}:
            told = str(schema.get("description", ""))
            return shapes.json_like(told, lambda: self._mark(name, kind, handle=False))
        return self._fitted(self._plain(kind, name), name, schema)

    def _fitted(self, text: str, name: str, schema: Mapping[str, Any]) -> str:
        """Return a text within the bounds of its schema, as far as that can be told."""
        if not shapes.wants_uuid(schema, text):
            return shapes.fitted(text, schema, long=self._recipe.long)
        if self._writer.user == "B":
            digest = uuid.uuid5(uuid.NAMESPACE_OID, self._writer.words.plain).bytes
            return str(uuid.UUID(bytes=digest, version=4))
        about = Planted(self._tool.name, name, Kind.IDENTIFIER.value, True, False, self._has_path)
        return self._writer.plant(about, str(uuid.uuid4()))

    def _statement(self, kind: Kind, name: str) -> str:
        told = dialects.statements(kind, self._writer.user, explained(self._tool))
        text = told[self._recipe.statement % len(told)]
        words = self._writer.words
        if "{c}" in text:
            text = text.replace("{c}", self._mark(name, kind, handle=False, reads=False))
        for key, value in (
            ("{t}", f"t{words.variable}"),
            ("{v}", words.variable),
            ("{n}", str(words.number)),
        ):
            text = text.replace(key, value)
        return text

    def _mark(self, name: str, kind: Kind, *, handle: bool, reads: bool | None = None) -> str:
        observes = self._tool.rank is Rank.OBSERVE if reads is None else reads
        about = Planted(self._tool.name, name, kind.value, handle, observes, self._has_path)
        return self._writer.plant(about)

    def _plain(self, kind: Kind, name: str) -> str:  # noqa: C901, PLR0912  one value for each kind
        a = self._writer.user == "A"
        match kind:
            case Kind.URL:
                web = "http" if self._writer.plain_http else "https"
                return f"{web}://pages.example.com/{self._mark(name, kind, handle=True)}"
            case Kind.PATTERN:
                return "*"
            case Kind.DATE:
                return DAY_OF_A if a else "2026-02-04"
            case Kind.TIME:
                return "10:30" if a else "11:30"
            case Kind.WHEN:
                return f"{DAY_OF_A}T10:30:00Z" if a else "2026-02-04T11:30:00Z"
            case Kind.TIMEZONE:
                return "Europe/Paris" if a else "UTC"
            case Kind.EMAIL:
                return f"{self._mark(name, kind, handle=True)}@example.com"
            case Kind.LANGUAGE:
                return "en"
            case Kind.PLACE:
                return "Paris" if a else "Rome"
            case Kind.COUNTRY:
                return "FR" if a else "IT"
            case Kind.CONTENT:
                return f"note {self._mark(name, kind, handle=False)}"
            case Kind.QUERY:
                return self._mark(name, kind, handle=True) if a else "note"
            case Kind.IDENTIFIER:
                return self._mark(name, kind, handle=True)
        return self._mark(name, Kind.NAME, handle=True)

    def _path(self, kind: Kind, name: str, schema: Mapping[str, Any]) -> str:
        own = self._writer.territory.holding(self._writer.user)
        words = set(words_of(name))
        makes = self._tool.rank is Rank.CREATE and not words & {"source", "src", "from"}
        told = f"{schema.get('description', '')} {about(self._tool)}"
        if kind is Kind.DIRECTORY:
            tool = set(self._tool.words)
            new = (
                makes
                and tool & {"create", "make", "mkdir", "init", "clone"}
                and self._recipe.choice == 0
            )
            path = (
                own.directory / self._new(name, kind)
                if new and not tool & {"branch", "commit"}
                else own.directory
            )
        elif makes and not self._changes(words) and language(self._tool) is not Kind.SQL:
            named = _EXTENSION.search(told)
            extension = named[0] if named else samples.extension_of(told)
            path = own.directory / f"{self._new(name, kind)}{extension}"
        else:
            path = own.file(samples.extension_of(told))
        if self._recipe.relative:
            root = self._writer.territory.roots[0]
            return path.name if kind is Kind.FILE_NAME else str(path.relative_to(root))
        return str(path)

    def _changes(self, parameter: set[str]) -> bool:
        """Tell whether a tool that makes something wants a file which is there already."""
        tool = set(self._tool.words)
        edits = tool & {"edit", "update", "append"} or parameter & {"destination", "dest"}
        return bool(edits) or self._recipe.existing

    def _new(self, name: str, kind: Kind) -> str:
        self._names += 1
        word = self._mark(name, kind, handle=True)
        return word if self._writer.user == "A" else f"{word}{self._names}"
