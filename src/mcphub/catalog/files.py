"""The `files` of a server: which places below the home a text may be laid into. Pure.

What is laid there is a template like a value of `env`; how it gets there is `spawn.laid`.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from mcphub.errors import InvalidInput

MOST: Final = 16
"""Files of one server."""
_HOME: Final = "~/"
_LONGEST: Final = 512
_LONGEST_PART: Final = 255
_EXAMPLE: Final = 'Write it as the server sees it: "~/.config/x/token.json".'


def place_below_home(written: str) -> str:
    """Return the path below the home that `~/…` names.

    Raises:
        InvalidInput: It is no such path, or one that leaves the home.
    """
    below = written.removeprefix(_HOME)
    parts = below.split("/")
    if not written.startswith(_HOME) or {"", ".", ".."} & set(parts):
        raise InvalidInput("It is no file below the home.", hint=_EXAMPLE)
    if not below.isprintable() or "$" in below:
        raise InvalidInput(
            "A file's name is printable, and holds no template (rule R23).", hint=_EXAMPLE
        )
    lengths = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    if max(lengths) > _LONGEST_PART or sum(lengths) > _LONGEST:
        raise InvalidInput("The name of the file is too long.", hint=_EXAMPLE)
    return below


def inside_another(places: Iterable[str]) -> str:
    """Return a place that lies below another one, which then would have to be a directory too; or ""."""
    ordered = sorted(place.split("/") for place in places)
    for first, second in pairwise(ordered):
        if second[: len(first)] == first:
            return "/".join(second)
    return ""
