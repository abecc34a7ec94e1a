"""Canaries: words that exist nowhere else, planted by user A and sought in what user B sees.

128 bits, lower-case letters and digits, so that they survive case folding, slugs, JSON and URLs.
They are sought also reversed into base64 and hexadecimal. A credential's sentinel is a canary too.
"""

import base64
import re
import secrets
import string
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

_LETTERS: Final = string.ascii_lowercase + string.digits
_LENGTH: Final = 25  # of 36 letters: 129 bits
_PREFIXES: Final = ("k", "q", "w", "z")  # not a digit, so that it is a name everywhere
_JOINERS: Final = re.compile(r"[\s_\-]+")
_START: Final = 8  # characters by which texts are searched for all canaries at once
_FEW: Final = 100
_T = TypeVar("_T")


def mint() -> str:
    """Return a new canary."""
    return secrets.choice(_PREFIXES) + "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH - 1))


def folded(text: str) -> str:
    """Return text as canaries are sought in it: lower case."""
    return text.lower()


def forms(canary: str) -> tuple[str, ...]:
    """Return what a canary may look like, folded; base64 at each of the three alignments."""
    raw = canary.encode()
    encoded = []
    for pad in range(3):
        text = base64.b64encode(b"\0" * pad + raw).decode()
        # letters that depend on the neighbours are cut off at both ends
        encoded.append(text[4 if pad else 0 : -4].lower())
    return (canary.lower(), raw.hex(), canary[::-1].lower(), *encoded)


@dataclass(frozen=True, slots=True)
class Sighting(Generic[_T]):
    """A canary that was seen.

    Attributes:
        canary: Which.
        about: What was noted when it was planted.
        around: The text around it.
    """

    canary: str
    about: _T
    around: str


class Canaries(Generic[_T]):
    """Planted canaries with what is known of each."""

    def __init__(self) -> None:
        self._planted: dict[str, tuple[_T, tuple[str, ...]]] = {}
        self._by_start: dict[str, list[str]] = {}

    def plant(self, about: _T, canary: str = "") -> str:
        """Note a canary, a new one by default, and return it."""
        canary = canary or mint()
        shapes = forms(canary)
        self._planted[canary] = (about, shapes)
        for shape in shapes:
            self._by_start.setdefault(shape[:_START], []).append(canary)
        return canary

    def about(self, canary: str) -> _T:
        """Return what was noted."""
        return self._planted[canary][0]

    def seen(self, text: str, *, but: Iterable[str] = ()) -> list[Sighting[_T]]:
        """Return the canaries in a text, apart from those that the caller itself said (`but`)."""
        low = folded(text)
        candidates = self._candidates(low)
        if not candidates:
            return []
        said = folded("\n".join(but))
        found: list[Sighting[_T]] = []
        for canary, (about, shapes) in self._planted.items():
            if canary not in candidates or shapes[0] in said:
                continue
            place = next((at for shape in shapes if (at := low.find(shape)) >= 0), -1)
            if place >= 0:
                around = text[max(0, place - 160) : place + len(canary) + 160]
                found.append(Sighting(canary, about, around))
        return found

    def _candidates(self, low: str) -> Container[str]:
        """Return the canaries that may be in a text: with many of them it is read once for all."""
        if len(self._planted) < _FEW:
            return self._planted
        starts = {low[at : at + _START] for at in range(len(low) - _START + 1)}
        return {c for start in starts & self._by_start.keys() for c in self._by_start[start]}
