"""Names at endpoints of several servers: `server__name`, fit for every client, and back again.

A name has at most 128 characters of `A-Z a-z 0-9 _ . -` (MCP 2026-07-28 server/tools §Tool Names). A
server's own name that is not fit, or too long, gets an **alias**: what is fit of it and a digest of
the whole. A name that looks like an alias gets one too, so that no two names of a server meet.
Pure; the way back from an alias needs the server's list.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mcphub.gateway.calls import SEPARATOR

LONGEST: Final = 128
_DIGITS: Final = 16
_FIT: Final = re.compile(r"[A-Za-z0-9_.-]+")
_UNFIT: Final = re.compile(r"[^A-Za-z0-9_.-]")
_ALIAS: Final = re.compile(rf".*\.[0-9a-f]{{{_DIGITS}}}", re.DOTALL)


def exposed(server: str, own: str) -> str:
    """Return the name that clients see for `own` of a server, whose name is at most 63 characters."""
    name = f"{server}{SEPARATOR}{own}"
    if len(name) <= LONGEST and _FIT.fullmatch(own) and not _ALIAS.fullmatch(own):
        return name
    digest = hashlib.sha256(own.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    room = LONGEST - len(server) - len(SEPARATOR) - 1 - _DIGITS
    return f"{server}{SEPARATOR}{_UNFIT.sub('_', own)[:room]}.{digest}"


def aliases(server: str, names: Iterable[str]) -> dict[str, str]:
    """Return alias -> own name, of the own names of a server that are shown under one."""
    shown = ((exposed(server, own), own) for own in names)
    return {name: own for name, own in shown if name != f"{server}{SEPARATOR}{own}"}


def own_name(server: str, given: str, known: Callable[[], Mapping[str, str]]) -> str | None:
    """Return the server's own name for what a client calls `given`, behind the separator.

    Args:
        server: Name of the server.
        given: The client's name without `server__`.
        known: Returns the `aliases` of the server's list; asked for an alias only.

    Returns:
        The own name; None for an alias of nothing in `known`.
    """
    if not _ALIAS.fullmatch(given):
        return given
    return known().get(f"{server}{SEPARATOR}{given}")
