"""A large message that is read while it arrives, in steps that keep nobody waiting.

msgspec proves JSON about as fast as memory is read, but all of it at once: 16 MB take 5 ms in which no
other user is served. Here it proves one window after the other:
- **Inside of a string**, a window is one string of its own, cut where no escape and no character is split.
- **Between the members of an object or the items of an array**, what stands before a comma is guessed to
  be whole members. Put between brackets it is JSON exactly if it is: msgspec proves the guess or refutes it.
- **Else** one token is read at a time, until a guess is right again.

So whatever `envelope.parse` takes is taken, with the same meaning, and nothing else; two things are refused
that are there in no real message: a name with its colon, or a number, that is longer than a window.
The members that the hub reads (`_READ`) are noted on the way: who needs them reads nothing again. Pure.
"""

import contextlib
import re
import time
from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from mcphub.wire import envelope
from mcphub.wire.codes import INVALID_REQUEST, PARSE_ERROR
from mcphub.wire.envelope import Malformed, Members, Message
from mcphub.wire.pieces import Blocks, Raw

STEP_S: Final = 0.0003
"""Seconds after which a step ends."""
_WINDOW: Final = 32 * 1024
_STRING: Final = 128 * 1024
"""Bytes of a string without escapes that are proven together."""
_NOTED: Final = 8 * 1024
"""Bytes of a guess where members are noted: each costs more there."""
_ESCAPED: Final = 8 * 1024
"""Bytes of a string with escapes that are looked at together."""
_FIRST_GUESS, _LEAST_GUESS, _MOST_GUESS = 2 * 1024, 512, 16 * 1024
_WHOLE: Final = 64 * 1024
"""Bytes of a value that is put together."""
_DEEPEST: Final = 900
_KEPT: Final = 4 * 1024
"""Bytes of each end that are kept of what may turn out to be no message."""
_CRUMB: Final = 4 * 1024
"""Bytes up to which parts that wait are put together: a window is made of few of them."""

_READ: Final = frozenset(
    {
        (),
        ("params",),
        ("params", "_meta"),
        ("params", "arguments"),
        ("params", "inputResponses"),
        ("result",),
        ("result", "_meta"),
        ("result", "inputRequests"),
        ("error",),
    }
)
"""Paths of the objects whose members are noted."""
_MARKS: Final = ((b"},", 3), (b"],", 1), (b'",', 1), (b",", 1))
"""What may end an item, and how many of the last ones in a window are tried."""

_FIRST, _NEXT, _VALUE, _AFTER, _DONE = range(5)
"""What comes: a member or the end; a member; a value; a comma or the end; nothing more."""

_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ANY: Final = msgspec.json.Decoder(msgspec.Raw)
_TEXT: Final = msgspec.json.Decoder(str)
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_KEY: Final = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:', re.DOTALL)
_SCALAR: Final = re.compile(
    rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"
)
WHOLE_CHARACTERS: Final = re.compile(
    rb'[^"\\]*(?:\\(?:[^u]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    rb'|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})[^"\\]*)*',
    re.DOTALL,
)
"""Whole characters of a string, up to its end or to what is no character."""
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_QUOTE, _BACKSLASH, _COMMA, _CR, _LF = map(ord, '"\\,\r\n')


class _Frame:
    """An object or array that is being read.

    Attributes:
        members: What is noted of it, None when nothing is.
        path: Where it stands, when its members are noted.
        name: Of the member that is being read, where they are noted.
        guess: Bytes of the next guess.
        later: Where the next guess is made, when the last ones were wrong.
    """

    __slots__ = ("brackets", "closer", "guess", "later", "members", "name", "path", "wait")

    def __init__(self, opener: bytes, path: tuple[str, ...] | None) -> None:
        self.brackets = (b"{", b"}") if opener == b"{" else (b"[", b"]")
        self.closer = self.brackets[1][0]
        self.path = path
        self.members: Members | None = {} if path is not None else None
        self.name = ""
        self.guess, self.later, self.wait = _FIRST_GUESS, 0, _LEAST_GUESS

    @property
    def is_object(self) -> bool:
        return self.brackets[0] == b"{"


class _Wrong(Exception):
    """It is no JSON."""


class Arriving:
    """One message that arrives in parts.

    `add` what has come and `read` until it has caught up; at the end `end`, `read` again, and take the
    `message`. What is no message is told there, however early it is seen.

    Args:
        mends: Halves of surrogates are replaced, as `envelope.without_halves` does.

    Attributes:
        is_batch: It is an array: nothing of it is read, and all is kept for `bytes()`.
    """

    def __init__(self, *, mends: bool = False) -> None:
        self.is_batch = False
        self._mends = mends
        self._parts: deque[bytes] = deque()
        self._waiting = self._size = self._passed = 0
        self._window, self._at = b"", 0
        self._ended = self._in_string = False
        self._frames: list[_Frame] = []
        self._records: list[Blocks] = []
        self._state = _VALUE
        self._inside: dict[tuple[str, ...], Members] = {}
        self._members: Members = {}
        self._wrong: Malformed | None = None
        self._head = self._tail = b""
        self._batch: list[bytes] = []

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        """All of a batch."""
        return b"".join(self._batch)

    def add(self, part: bytes) -> None:
        """Take what comes next; does not look at it."""
        if len(self._head) < _KEPT:
            self._head += part[: _KEPT - len(self._head)]
        self._tail = part[-_KEPT:] if len(part) >= _KEPT else (self._tail + part)[-_KEPT:]
        self._size += len(part)
        if self.is_batch:
            self._batch.append(part)
        elif self._wrong is None:
            if self._parts and len(self._parts[-1]) + len(part) <= _CRUMB:
                self._parts[-1] += part
            else:
                self._parts.append(part)
            self._waiting += len(part)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True

    def read(self) -> bool:
        """Read on for `STEP_S`; returns whether all is read that can be read by now."""
        until = time.perf_counter() + STEP_S
        try:
            while self._has_more():
                self._step()
                if time.perf_counter() >= until:
                    return not self._has_more()
        except (_Wrong, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            self._refuse(Malformed(PARSE_ERROR, "The body is not valid JSON."))
        except Malformed as error:
            self._refuse(error)
        return True

    def message(self) -> Message:
        """Return the message, when it has ended and all is read.

        Raises:
            Malformed: As `envelope.parse`.
        """
        if self._wrong is None and self._state != _DONE:
            self._wrong = Malformed(PARSE_ERROR, "The body is not valid JSON.")
        if self._wrong is not None:
            raise self._wrong
        return envelope.message_of(dict(self._members), self._inside)

    def ends(self) -> tuple[bytes, bytes]:
        """Return the first and the last bytes, a few thousand of each."""
        return self._head, self._tail

    # ------------------------------------------------------------------ windows

    def _has_more(self) -> bool:
        """Whether a step can be made: with a whole window, unless that was the last one."""
        left = len(self._window) - self._at
        if left < _WINDOW and self._parts and (self._ended or left + self._waiting >= _WINDOW):
            taken = [self._window[self._at :]] if left else []
            while self._parts and left < _WINDOW:
                part = self._parts.popleft()
                taken.append(part)
                left += len(part)
                self._waiting -= len(part)
            self._passed += self._at
            self._window, self._at = b"".join(taken) if len(taken) > 1 else taken[0], 0
        return left >= _WINDOW or (self._ended and left > 0)

    def _take(self, to: int) -> None:
        """Go on to a place in the window; what is passed is proven."""
        bit = self._window[self._at : to]
        self._at = to
        if self._records:
            self._keep(bit)

    def _keep(self, bit: bytes) -> None:
        if _LF in bit or _CR in bit:
            bit = envelope.one_line(bit)
        for record in self._records:
            record.add(bit)

    def _refuse(self, error: Malformed) -> None:
        self._wrong = error
        self._parts.clear()
        self._waiting = 0
        self._window, self._at = b"", 0
        self._frames.clear()
        self._records.clear()

    # ------------------------------------------------------------------ steps

    def _step(self) -> None:
        """Prove what comes next.

        Raises:
            _Wrong, msgspec.MsgspecError, RecursionError, UnicodeDecodeError: It is no JSON.
            Malformed: It is no message.
        """
        if self._in_string:
            self._string()
            return
        data = self._window
        space = _SPACE.match(data, self._at, self._at + _WINDOW)
        assert space is not None
        if space.end() > self._at:
            self._take(space.end())
            return
        at = self._at
        byte = data[at : at + 1]
        if self._state == _AFTER:
            self._after(byte[0])
        elif self._state == _DONE:
            raise _Wrong
        elif not self._frames:
            self._begin(byte)
        elif self._state == _VALUE:
            self._value(byte)
        else:
            frame = self._frames[-1]
            if self._state == _FIRST and byte[0] == frame.closer:
                self._close()
            elif not self._guess(frame):
                if frame.is_object:
                    self._key(frame)
                else:
                    self._value(byte)

    def _begin(self, byte: bytes) -> None:
        """Read the first byte of all."""
        if byte == b"[":
            self.is_batch = True
            self._batch = [self._window[self._at :], *self._parts]
            self._parts.clear()
            self._waiting = 0
            self._window, self._at, self._state = b"", 0, _DONE
        elif byte == b"{":
            self._open(byte, ())
        else:
            with contextlib.suppress(msgspec.ValidationError):
                _MEMBERS.decode(self._window[self._at : self._at + _WINDOW])
            raise Malformed(INVALID_REQUEST, "A message is a JSON object.")

    def _after(self, byte: int) -> None:
        """Read what stands behind a value."""
        if byte == _COMMA:
            self._take(self._at + 1)
            self._state = _NEXT
        elif byte == self._frames[-1].closer:
            self._close()
        else:
            raise _Wrong

    def _key(self, frame: _Frame) -> None:
        """Read a name and its colon."""
        found = _KEY.match(self._window, self._at, self._at + _WINDOW)
        if found is None:
            raise _Wrong
        name = self._proven(found[1], found.end())
        self._state = _VALUE
        if frame.members is not None:
            self._note(frame, {name: msgspec.Raw(b"null")})
            frame.name = name

    def _proven(self, quoted: bytes, to: int) -> str:
        """Pass a name; returns it."""
        try:
            name = _TEXT.decode(quoted)
        except msgspec.DecodeError:
            whole = envelope.without_halves(quoted) if self._mends else quoted
            if whole == quoted:
                raise
            name = _TEXT.decode(whole)
            self._at += len(quoted)
            self._keep(whole)
        self._take(to)
        return name

    def _value(self, byte: bytes) -> None:
        """Read a value, or the start of a long one."""
        frame = self._frames[-1]
        path = None
        if frame.members is not None:
            assert frame.path is not None
            self._records.append(Blocks())
            path = (*frame.path, frame.name)
        if byte in b"{[":
            self._open(byte, path if byte == b"{" and path in _READ else None)
        elif byte == b'"':
            self._take(self._at + 1)
            self._in_string = True
        else:
            found = _SCALAR.match(self._window, self._at, self._at + _WINDOW)
            if found is None:
                raise _Wrong
            self._take(found.end())
            self._valued()

    def _open(self, byte: bytes, path: tuple[str, ...] | None) -> None:
        """Read an opening bracket."""
        if len(self._frames) >= _DEEPEST:
            raise Malformed(PARSE_ERROR, "The message is nested too deeply to be read.")
        self._take(self._at + 1)
        frame = _Frame(byte, path)
        self._frames.append(frame)
        if path:
            assert frame.members is not None
            self._inside[path] = frame.members
        elif path is not None:
            assert frame.members is not None
            self._members = frame.members
        self._state = _FIRST

    def _close(self) -> None:
        """Read a closing bracket."""
        self._take(self._at + 1)
        self._frames.pop()
        self._valued()

    def _valued(self) -> None:
        """Note that a value has ended."""
        if not self._frames:
            self._state = _DONE
            return
        self._state = _AFTER
        frame = self._frames[-1]
        if frame.members is not None:
            text = self._records.pop().text()
            frame.members[frame.name] = msgspec.Raw(bytes(text)) if len(text) <= _WHOLE else text

    def _note(self, frame: _Frame, found: Mapping[str, Raw]) -> None:
        """Note members, of which the last one of a name counts; more than `MOST` are none, or no message."""
        assert frame.members is not None
        assert frame.path is not None
        frame.members.update(found)
        is_none = len(frame.members) > envelope.MOST
        if is_none and not frame.path:
            raise Malformed(INVALID_REQUEST, f"A message has at most {envelope.MOST} members.")
        depth = len(frame.path)
        for path in list(self._inside):
            is_below = len(path) > depth and path[:depth] == frame.path
            if is_below and (is_none or path[depth] in found):
                del self._inside[path]
        if is_none:
            self._inside[frame.path] = {}
            frame.members = None

    # ------------------------------------------------------------------ guesses

    def _guess(self, frame: _Frame) -> bool:
        """Prove several members or items at once; returns whether that was possible."""
        data, at = self._window, self._at
        place = self._passed + at
        if place < frame.later:
            return False
        to = at + min(frame.guess, _NOTED if frame.members is not None else _MOST_GUESS)
        for mark, tries in _MARKS:
            before = to
            for _ in range(tries):
                found = data.rfind(mark, at, before)
                if found < 0:
                    break
                before, comma = found, found + len(mark) - 1
                if comma > at and self._are_whole(frame, data[at:comma]):
                    self._take(comma + 1)
                    self._state = _NEXT
                    frame.guess = min(2 * frame.guess, _MOST_GUESS)
                    frame.wait = _LEAST_GUESS
                    return True
        if frame.guess > _LEAST_GUESS:
            frame.guess //= 4
        else:
            frame.later, frame.wait = place + frame.wait, min(2 * frame.wait, _WINDOW)
        return False

    def _are_whole(self, frame: _Frame, text: bytes) -> bool:
        """Whether a text is whole members, or items; noted where they are."""
        before, after = frame.brackets
        guessed = before + text + after
        try:
            if not text.isascii():
                text.decode()
            if frame.members is None:
                _ANY.decode(guessed)
            else:
                found = _MEMBERS.decode(guessed)
                if _LF in text or _CR in text:  # proven to be in no string
                    found = _MEMBERS.decode(envelope.one_line(guessed))
                self._note(frame, dict[str, Raw](found))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return False
        return True

    # ------------------------------------------------------------------ strings

    def _string(self) -> None:
        """Prove what comes of a string."""
        data, at = self._window, self._at
        to = min(at + _STRING, len(data))
        quote = data.find(b'"', at, to)
        slash = data.find(b"\\", at, to if quote < 0 else quote)
        if slash >= 0:
            if slash - at < _ESCAPED // 2:
                to = min(at + _ESCAPED, to)
                found = WHOLE_CHARACTERS.match(data, at, to)
                assert found is not None
                to = found.end()
                if to == at and data[at] == _BACKSLASH:
                    self._half(at)
                    return
            else:
                to = slash
            quote = to if data[to : to + 1] == b'"' else -1
        elif quote >= 0:
            to = quote
        text = data[at:to]
        if not text.isascii():
            if quote < 0:
                text = without_part(text)
                to = at + len(text)
            text.decode()
        _ANY.decode(b'"' + text + b'"')
        self._at = to
        for record in self._records:
            record.add(text)
        if quote >= 0:
            self._take(to + 1)
            self._in_string = False
            self._valued()
        elif not text:
            raise _Wrong

    def _half(self, at: int) -> None:
        """Replace half of a pair of surrogates.

        Raises:
            _Wrong: It is something else, or nothing is replaced.
        """
        if not self._mends or _HALF.match(self._window, at) is None:
            raise _Wrong
        self._at += 6
        self._keep(b"\\ufffd")


def without_part(text: bytes) -> bytes:
    """Return UTF-8 text without the start of a character at its end."""
    for back in range(1, min(4, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0xC0:  # the first byte of a character
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return text if length <= back else text[:-back]
        if byte < 0x80:
            break
    return text
