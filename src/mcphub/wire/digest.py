"""The digest that binds a user context to a request, taken in steps that keep nobody waiting.

Sixteen megabytes of arguments take a tenth of a second to be written canonically (`wire.canonical`), in which
no other user is served. Here a large value is walked through token by token, in the text as it came: a string
without escapes is its own canonical form, so it is not even copied out of its windows. An object is
written when all of its names are known, since they are sorted. Texts are proven JSON before (`wire.arriving`,
`wire.envelope`). Specification: docs/reference/user-context.md.
"""

import base64
import hashlib
import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import msgspec

from mcphub.wire.arriving import STEP_S, WHOLE_CHARACTERS, without_part
from mcphub.wire.canonical import NotCanonical, canonical, utf16
from mcphub.wire.envelope import Members
from mcphub.wire.pieces import Pieces, Raw

NOT_COVERED: Final = frozenset({"_meta", "requestState"})
"""Members of `params` outside of the digest: what belongs to the hop, and what the server sealed itself."""
MOST: Final = 100_000
"""Values, and names of members, of one request."""
_SMALL: Final = 64 * 1024
_FEW: Final = 400
"""Values that are written in one step."""
_BETWEEN: Final = (b",", b"[", b"{")
"""Before each value but the first stands one of them."""
_WINDOW: Final = 32 * 1024
"""Bytes that are looked at for one token; of a string it takes any number of them."""
_ESCAPED: Final = 8 * 1024
_RUN: Final = 256
"""Names that are sorted together."""

_ITEMS: Final = msgspec.json.Decoder(list[Any])
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Any])
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_NAME: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:', re.DOTALL)
_SCALAR: Final = re.compile(rb"[-+.0-9a-zA-Z]+")
_SPACES, _OPENERS, _CLOSERS = b" \t\r\n", b"{[", b"}]"
_QUOTE: Final = ord('"')

_GUESS: Final = 1024
"""Bytes that are guessed to be whole items or members."""
_LONGEST_WAIT: Final = 64

Rope = deque["bytes | Rope"]
"""Canonical text in bits, each bytes or a rope."""


class TooManyValues(NotCanonical):
    """There are more than `MOST` values: writing each takes microseconds."""


def is_small(params: Members) -> bool:
    """Whether the digest of these params takes no longer than a step."""
    if len(params) > _FEW or sum(map(len, params.values())) > _SMALL:
        return False
    return sum(bytes(raw).count(mark) for raw in params.values() for mark in _BETWEEN) < _FEW


class Digest:
    """base64url of SHA-256 over a request's canonical method and params.

    Args:
        method: JSON-RPC method.
        params: Raw members, as the server gets them; proven JSON.

    Attributes:
        method: As given.
        value: The digest, once `read` has returned True.
    """

    def __init__(self, method: str, params: Members) -> None:
        self.method = method
        self.value = ""
        self._hash = hashlib.sha256()
        self._left = MOST
        self._steps = self._digested(method, params)

    def read(self) -> bool:
        """Go on for `STEP_S`; returns whether it is done.

        Raises:
            NotCanonical: The params have no canonical form, or hold too many values (`TooManyValues`).
        """
        until = time.perf_counter() + STEP_S
        return all(time.perf_counter() < until for _ in self._steps)

    def finish(self) -> str:
        """Go on to the end, in one step, and return the digest.

        Raises:
            NotCanonical: As `read`.
        """
        for _ in self._steps:
            pass
        return self.value

    def _digested(self, method: str, params: Members) -> Iterator[None]:
        covered = {name: params[name] for name in params if name not in NOT_COVERED}
        if is_small(covered):
            values = {name: _decoded(bytes(raw)) for name, raw in covered.items()}
            self._hash.update(canonical({"method": method, "params": values}))
        else:
            self._hash.update(b'{"method":' + canonical(method) + b',"params":{')
            before = b""
            for name in sorted(covered, key=utf16):
                self.count(1)
                self._hash.update(before + canonical(name) + b":")
                before = b","
                rope = Rope()
                yield from _Walk(covered[name], self.count).value(rope)
                yield from self._hashed(rope)
            self._hash.update(b"}}")
        self.value = base64.urlsafe_b64encode(self._hash.digest()).rstrip(b"=").decode()

    def _hashed(self, rope: Rope) -> Iterator[None]:
        """Hash a rope, which is empty then: what is large is not let go of in one step either."""
        open_ones = [rope]
        while open_ones:
            if not open_ones[-1]:
                open_ones.pop()
                continue
            bit = open_ones[-1].popleft()
            if isinstance(bit, bytes):
                self._hash.update(bit)
                yield
            else:
                open_ones.append(bit)

    def count(self, more: int) -> None:
        """Count values and names.

        Raises:
            TooManyValues: There are too many.
        """
        self._left -= more
        if self._left < 0:
            raise TooManyValues


class _Open:
    """An object or array that is being walked through.

    Attributes:
        rope: Where its text goes.
        members: Of an object, the texts by name, of which the last one counts; None for an array.
        waits: Values that are read one by one before the next guess.
        wait: How many, after the next wrong guess.
    """

    __slots__ = ("is_empty", "members", "rope", "wait", "waits")

    def __init__(self, rope: Rope, *, is_object: bool) -> None:
        self.rope = rope
        self.members: dict[str, bytes | Rope] | None = {} if is_object else None
        self.is_empty = True
        self.waits, self.wait = 0, 1

    def closed(self) -> Iterator[None]:
        """Write what is written at its end."""
        if self.members is None:
            self.rope.append(b"[]" if self.is_empty else b"]")
            return
        names = list(self.members)
        runs: list[list[str]] = []
        for start in range(0, len(names), _RUN):
            runs.append(sorted(names[start : start + _RUN], key=utf16))
            yield
        before = b"{"
        for name in heapq.merge(*runs, key=utf16):
            self.rope.append(before + canonical(name) + b":")
            self.rope.append(self.members.pop(name))
            before = b","
            yield
        self.rope.append(b"}" if names else b"{}")


class _Walk:
    """Walks through one raw value; makes its canonical text.

    Args:
        raw: The value.
        count: Counts values and names.
    """

    def __init__(self, raw: Raw, count: Callable[[int], None]) -> None:
        self._parts = deque(raw.parts if isinstance(raw, Pieces) else (bytes(raw),))
        self._count = count
        self._window, self._at = b"", 0
        self._open: list[_Open] = []

    def value(self, rope: Rope) -> Iterator[None]:
        """Put the canonical text to the end of `rope`.

        Raises:
            NotCanonical: There is none.
        """
        place: _Place | None = rope, self._next()
        while place is not None:
            rope, byte = place
            self._count(1)
            if byte == b'"':
                yield from self._string(rope)
            elif byte in _OPENERS:
                self._at += 1
                self._open.append(_Open(rope, is_object=byte == b"{"))
            else:
                rope.append(self._scalar())
            yield
            place = yield from self._to_value()

    def _to_value(self) -> Generator[None, None, "_Place | None"]:
        """Go on to where the next value stands; None at the end of all."""
        while self._open:
            frame = self._open[-1]
            byte = self._next()
            if byte in _CLOSERS:
                self._at += 1
                self._open.pop()
                yield from frame.closed()
                continue
            if not frame.is_empty:
                self._at += 1  # a comma
                byte = self._next()
            if self._has_guessed(frame):
                frame.is_empty = False
                yield
                continue
            if frame.members is None:
                frame.rope.append(b"[" if frame.is_empty else b",")
                frame.is_empty = False
                return frame.rope, byte
            frame.is_empty = False
            rope = frame.members[self._name()] = Rope()
            return rope, self._next()
        return None

    def _has_guessed(self, frame: _Open) -> bool:
        """Take whole items or members at once, up to a comma; returns whether what was guessed is that.

        Between brackets it is JSON exactly if it is.
        """
        if frame.waits:
            frame.waits -= 1
            return False
        end = self._window.rfind(b",", self._at, self._at + _GUESS)
        if end > 0 and self._is_taken(frame, self._window[self._at : end]):
            self._at = end
            frame.wait = 1
            return True
        frame.waits = frame.wait
        frame.wait = min(2 * frame.wait, _LONGEST_WAIT)
        return False

    def _is_taken(self, frame: _Open, text: bytes) -> bool:
        try:
            if frame.members is None:
                items = _ITEMS.decode(b"[" + text + b"]")
                self._count(_values_in(items))
                before = b"[" if frame.is_empty else b","
                frame.rope.append(before + canonical(items)[1:-1])
            else:
                members = _MEMBERS.decode(b"{" + text + b"}")
                self._count(len(members) + _values_in(list(members.values())))
                for name, value in members.items():
                    frame.members[name] = canonical(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        return True

    def _next(self) -> bytes:
        """Go on to the next byte that is no space, and return it; a whole window follows, unless it is the last.

        Raises:
            NotCanonical: Only spaces come, to the end or for a window.
        """
        self._refill()
        space = _SPACE.match(self._window, self._at, self._at + _WINDOW)
        assert space is not None
        if space.end() > self._at:
            self._at = space.end()
            self._refill()
        byte = self._window[self._at : self._at + 1]
        if byte in _SPACES:
            raise NotCanonical("The text ends too early, or holds more spaces than anybody writes.")
        return byte

    def _refill(self) -> None:
        left = len(self._window) - self._at
        if left >= _WINDOW or not self._parts:
            return
        taken = [self._window[self._at :]]
        while self._parts and left < _WINDOW:
            part = self._parts.popleft()
            taken.append(part)
            left += len(part)
        self._window, self._at = b"".join(taken), 0

    def _matched(self, found: re.Match[bytes] | None) -> bytes:
        """Pass what is one token in the window, and return it.

        Raises:
            NotCanonical: It is longer than a window.
        """
        if found is None or (found.end() == len(self._window) and self._parts):
            raise NotCanonical("A name or a number is too long.")
        self._at = found.end()
        return found[0]

    def _name(self) -> str:
        self._count(1)
        found = _NAME.match(self._window, self._at)
        self._matched(found)
        name = _decoded(found[1]) if found is not None else ""
        assert isinstance(name, str)
        return name

    def _scalar(self) -> bytes:
        return canonical(_decoded(self._matched(_SCALAR.match(self._window, self._at))))

    def _string(self, rope: Rope) -> Iterator[None]:
        """Write a string: what has no escapes as it is, the rest in bits of whole characters."""
        self._at += 1
        rope.append(b'"')
        while True:
            self._refill()
            data, at = self._window, self._at
            quote = data.find(b'"', at)
            to = quote if quote >= 0 else len(data)
            slash = data.find(b"\\", at, to)
            if slash < 0 or slash - at > _ESCAPED:
                to = to if slash < 0 else slash
                rope.append(data[at:to])
                self._at = to
            else:
                rope.append(self._escaped())
            yield
            if self._window[self._at : self._at + 1] == b'"':
                self._at += 1
                rope.append(b'"')
                return
            if self._at == len(self._window) and not self._parts:
                raise NotCanonical("A string does not end.")

    def _escaped(self) -> bytes:
        """Return the canonical form of the next bit of a string."""
        at = self._at
        found = WHOLE_CHARACTERS.match(self._window, at, at + _ESCAPED)
        text = found[0] if found is not None else b""
        if at + len(text) < len(self._window) and self._window[at + len(text)] != _QUOTE:
            text = without_part(text)
        if not text:
            raise NotCanonical("Half of a pair of surrogates.")
        self._at = at + len(text)
        return canonical(_decoded(b'"' + text + b'"'))[1:-1]


_Place = tuple[Rope, bytes]
"""Where the text of a value goes, and its first byte."""


def _values_in(items: list[Any]) -> int:
    """Return how many values there are, at any depth, and names of members."""
    number = len(items)
    for item in items:
        if type(item) is list:
            number += _values_in(item)
        elif type(item) is dict:
            number += len(item) + _values_in(list(item.values()))
    return number


def _decoded(raw: bytes) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotCanonical("The params have no canonical JSON form.") from None
