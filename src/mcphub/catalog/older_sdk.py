"""Servers of PyPI that were written for `mcp` 1 and did not say so.

A package that asks for `mcp` without an upper bound gets version 2, whose interfaces are others, and
ends at its first import. What it says then is unmistakable, and `mcp<2` beside it is the cure: it also holds
back frameworks that need the newer one. Not here: who tries it (`spawn.launching`, `cli.check`).
"""

import re
from collections.abc import Iterable
from typing import Final

OLDER_SDK: Final = ("mcp<2",)
"""Constraints on the packages of a server that was written for the older SDK."""

_SAYS = re.compile(
    r"""cannot\ import\ name\ '?\w+'?\ from\ '?(?:mcp|fastmcp)\b
      | No\ module\ named\ '?(?:mcp|fastmcp)\.
      | '(?:Server|FastMCP)'\ object\ has\ no\ attribute
      | \b(?:Server|FastMCP)\.\w+\(\)\ (?:got\ an\ unexpected|missing\ \d|takes\ \d)
      | module\ 'mcp(?:\.[\w.]+)?'\ has\ no\ attribute""",
    re.VERBOSE,
)


_HELD_BACK = re.compile(r"mcp\s*(?:\[[^\]]*\])?\s*(?:<\s*2|<=\s*1|[=~]=\s*1)\b")


def holds_back_sdk(requirements: Iterable[str]) -> bool:
    """Tell whether requirements such as `mcp<2` already keep the newer SDK away."""
    return any(_HELD_BACK.match(requirement) for requirement in requirements)


def needs_older_sdk(said: str) -> bool:
    """Tell whether a server ended because the SDK is newer than what it was written for.

    Args:
        said: Its last words on stderr.
    """
    return _SAYS.search(said) is not None
