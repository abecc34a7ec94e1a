"""Numbers for parameters that are one. Pure."""

from collections.abc import Set
from typing import Any, Final

FEW: Final = frozenset(["timeout", "wait", "delay", "seconds", "sleep", "duration", "interval"])
"""Words of what has to be waited for."""
_FIRST: Final = frozenset(["start", "begin", "from", "first", "page", "offset", "skip"])


def likely(words: Set[str], else_: int) -> int:
    """Return a number that is likely to be taken where nothing says which ones are.

    Args:
        words: Of the parameter's name.
        else_: Given where they tell nothing.
    """
    if words & FEW:
        return 1000 if {"ms", "timeout"} & words and "seconds" not in words else 1
    if words & _FIRST:
        return 0 if words & {"offset", "skip"} else 1  # what there is begins there
    if words & {"year"}:
        return 2026
    if words & {"month"}:
        return 2
    return else_


def beside(default: float, low: Any, high: Any) -> float:
    """Return a neighbour of a default within its bounds, or the default itself."""
    fits = [
        value
        for value in (default + 1, default - 1)
        if not (isinstance(low, (int, float)) and value < low)
        and not (isinstance(high, (int, float)) and value > high)
    ]
    return fits[0] if fits else default
