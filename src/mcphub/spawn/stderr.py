"""What an instance wrote to stderr lately: bounded, neutralised, secrets redacted (rule R24).

Not a log: nothing here is kept on disk. `feed` gets raw bytes from the process; `lines` gives text
that is safe to show to the instance's user and to administrators.
"""

import base64
import re
from collections import deque
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

TAIL_BYTES: Final = 64 * 1024
LINE_BYTES: Final = 4 * 1024
_SHORTEST: Final = 4  # shorter values occur by chance; redacting them would spell them out
_SHORTEST_ENCODED: Final = 6
_MARK: Final = "[redacted]"
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)


class Redactor:
    """Replaces known secret values, also percent-encoded and inside base64 text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            for part in {secret, *secret.splitlines()}:
                forms |= _forms(part)
        self.longest = max(map(len, forms), default=0)
        ordered = sorted(forms, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def __call__(self, text: str) -> str:
        """Return `text` without any of the secrets."""
        return self._pattern.sub(_MARK, text) if self._pattern else text


def _forms(value: str) -> set[str]:
    """Return the spellings of one secret line that are looked for."""
    value = value.strip()
    if len(value) < _SHORTEST:
        return set()
    forms = {value}
    if len(value) >= _SHORTEST_ENCODED:
        forms |= {quote(value, safe=""), quote_plus(value), repr(value)[1:-1]}
        raw = value.encode("utf-8", "surrogatepass")
        for shift in range(3):  # base64 of `user:secret` holds the secret at any of three offsets
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                text = encode(b"\0" * shift + raw).decode().rstrip("=")
                inner = text[(0, 2, 3)[shift] : len(text) - (1 if (len(raw) + shift) % 3 else 0)]
                if len(inner) >= _SHORTEST_ENCODED:
                    forms.add(inner)
    return forms


class StderrBuffer:
    """Keeps the last `TAIL_BYTES` of lines, each cut at `LINE_BYTES`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._redact = Redactor(secrets)
        self._partial = bytearray()
        self._skipping = False
        self._lines: deque[str] = deque()
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take bytes as the process wrote them."""
        for piece in data.splitlines(keepends=True):
            if not self._skipping:
                self._partial += piece
            if piece.endswith((b"\n", b"\r")):
                self._end_line()
            elif len(self._partial) >= self._cut:
                self._end_line()
                self._skipping = True  # the rest of an overlong line is dropped

    def lines(self) -> list[str]:
        """Return the kept lines, oldest first, already redacted and neutralised."""
        if self._partial:
            return [*self._lines, self._clean(bytes(self._partial))]
        return list(self._lines)

    @property
    def _cut(self) -> int:
        # Redact first, cut then: a secret across the cut must not survive in part.
        return LINE_BYTES + 4 * self._redact.longest

    def _end_line(self) -> None:
        if self._skipping:
            self._skipping = False
        elif self._partial.strip():
            line = self._clean(bytes(self._partial))
            self._lines.append(line)
            self._size += len(line)
            while self._size > TAIL_BYTES:
                self._size -= len(self._lines.popleft())
        self._partial.clear()

    def _clean(self, raw: bytes) -> str:
        text = self._redact(raw.decode("utf-8", "replace").rstrip("\r\n"))
        if len(text) > LINE_BYTES:
            text = text[: LINE_BYTES - 1] + "…"
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
