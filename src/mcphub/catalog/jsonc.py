"""JSON with comments and trailing commas, as editors write settings: text in, values out.

Comments and trailing commas are blanked out with spaces, so that every place of an error is the
place in the file; then the strict JSON parser of Python reads it. Not JSON5: single quotes, bare
keys and `Infinity` are refused. A key that stands twice in an object is refused too, because the
other reader of the same file may take the other value.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

from mcphub.catalog.problems import json_path

# A string or comment without an end takes the rest as a word: looked for once, not from each place.
_TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*")
      |(?P<comment>//[^\n]*|/\*.*?\*/)
      |(?P<endless>(?:"|/\*).*)
      |(?P<space>\s+)
      |(?P<mark>[{}\[\],:])
      |(?P<word>[^\s{}\[\],:"/]+|.)""",
    re.VERBOSE | re.DOTALL,
)
_NO_VALUE = frozenset({"", "{", "[", ",", ":"})


class JsoncError(ValueError):
    """The text is not JSON with comments.

    Attributes:
        message: What is wrong and where, without the text of any value.
        path: JSON path of the object for a key that stands twice, otherwise `$`.
    """

    def __init__(self, message: str, path: str = "$") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


class Token(NamedTuple):
    """A piece of the text, from `start` to `end`.

    Its `kind` is `string`, `comment`, `space`, `mark`, `word`, or `endless` for a string or comment
    that is never closed.
    """

    kind: str
    text: str
    start: int
    end: int


def tokens(text: str) -> Iterator[Token]:
    """Yield every piece of the text in order; together they are the text."""
    for match in _TOKEN.finditer(text):
        yield Token(match.lastgroup or "", match.group(), match.start(), match.end())


def blanked(text: str) -> str:
    """Return plain JSON of the same length: comments and trailing commas become spaces."""
    pieces: list[str] = []
    before = ""  # the last piece that is neither space nor comment
    comma: int | None = None  # where `before` is a comma after a value
    for match in _TOKEN.finditer(text):
        kind, piece = match.lastgroup, match.group()
        if kind == "comment":
            pieces.append(re.sub(r"[^\n]", " ", piece))
            continue
        if kind != "space":
            if comma is not None and piece in ("]", "}"):
                pieces[comma] = " "
            comma = len(pieces) if piece == "," and before not in _NO_VALUE else None
            before = piece
        pieces.append(piece)
    return "".join(pieces)


class _Object(dict[str, Any]):
    """An object of the text that remembers keys which stand twice."""

    repeated: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.repeated = next(k for k, _ in pairs if k in seen or seen.add(k))
    return made


def _no_constant(_name: str) -> NoReturn:
    raise JsoncError("NaN and Infinity are no JSON numbers.")


def parse(text: str) -> Any:
    """Return the value of a JSONC text.

    Raises:
        JsoncError: It is not one, or a key stands twice, or it is nested too deeply.
    """
    try:
        value = json.loads(blanked(text), object_pairs_hook=_object, parse_constant=_no_constant)
        _refuse_repeated(value, ())
    except json.JSONDecodeError as error:
        raise JsoncError(f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise JsoncError("It is nested too deeply.") from None
    except JsoncError:
        raise
    except ValueError:  # a number of thousands of digits
        raise JsoncError("A number is too long.") from None
    return value


def _refuse_repeated(value: Any, where: tuple[str | int, ...]) -> None:
    if isinstance(value, _Object):
        if value.repeated is not None:
            raise JsoncError("The key stands twice.", json_path(*where, value.repeated))
        for key, inner in value.items():
            _refuse_repeated(inner, (*where, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_repeated(inner, (*where, index))
