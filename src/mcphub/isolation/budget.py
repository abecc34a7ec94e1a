"""`Budget`: how many seconds a check has, and what it left undone when they ran out.

Every phase asks it when to end. Only what could have shown a leak is noted as left undone: without a
finding, a check that left such a thing undone is inconclusive and never clean.
"""

from time import monotonic
from typing import Final

USUAL_S: Final = 150.0
"""Seconds of a check for which the limits of its phases are made."""


class Budget:
    """The time of one check, from now on.

    Args:
        seconds: After which the check ends, whatever it does at that moment.

    Attributes:
        undone: What was left undone, in words.
        unexplained: What was seen, and is too little for a finding.
    """

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds
        self._more = max(1.0, seconds / USUAL_S)
        self.undone: list[str] = []
        self.unexplained: list[str] = []

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - monotonic())

    def slice(self, most_s: float, share: float = 1.0) -> "Slice":
        """Return the time of one phase: at most a share of what is left, and at most `most_s`.

        Who gives a check more than the usual time gives it to its phases.
        """
        return Slice(min(most_s * self._more, self.left * share))

    def leave(self, what: str) -> None:
        """Note that something which could have shown a leak is left undone."""
        if what not in self.undone:
            self.undone.append(what)

    def wonder(self, what: str) -> None:
        """Note something that was seen and is too little for a finding, however much time there is."""
        if what not in self.unexplained:
            self.unexplained.append(what)


class Slice:
    """The time of one phase, from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never negative."""
        return max(0.0, self._end - monotonic())

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.left == 0.0

    def part(self, of: int, least_s: float) -> "Slice":
        """Return the time of one of `of` equal things that are still to do, with room for slow ones."""
        return Slice(min(self.left, max(least_s, 3 * self.left / max(1, of))))
