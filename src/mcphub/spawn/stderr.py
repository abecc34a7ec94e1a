"""What an instance wrote to stderr lately: bounded, neutralised, secrets redacted (rule R24).

Not a log: nothing here is kept on disk. `feed` gets raw bytes from the process; `lines` gives text
that is safe to show to the instance's user and to administrators: no secret, and no directory of the
host beyond what the server itself goes by. The programs that start an instance write to the same
pipe before the server does; their words, which hold paths of the host, are kept apart in `launcher`.
"""

import base64
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus

TAIL_BYTES: Final = 64 * 1024
LINE_BYTES: Final = 4 * 1024
_SHORTEST: Final = 4  # shorter values occur by chance; redacting them would spell them out
_SHORTEST_ENCODED: Final = 6
_MARK: Final = "[redacted]"
_LAUNCHER_LINES: Final = 20
_TOP_PARTS: Final = 3
_NOT_STARTED: Final = "The sandbox of the server did not start; the hub's log says why."
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


def _renaming(shown: Mapping[str, str]) -> re.Pattern[str]:
    """Return what finds the paths of `shown`, longest first, as whole names."""
    paths = sorted(shown, key=len, reverse=True)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, paths))})(?![\w.-])")


def names_of(home: Path, home_inside: str, places: Iterable[Path]) -> dict[str, str]:
    """Return what to show instead of paths of the host: of the home, and of where `places` lie.

    Directories at the top, `/opt` or `/tmp`, are everybody's and stay.
    """
    parents = {place.parent for place in places if len(place.parts) > _TOP_PARTS}
    return {str(parent): "…" for parent in parents} | {str(home): home_inside}


class StderrBuffer:
    """Keeps the last `TAIL_BYTES` of lines, each cut at `LINE_BYTES`.

    Args:
        secrets: Values that never show.
        shown: Path of the host -> what is shown instead.
        programs: Names of the programs that start the server; a line `name: …` before the server's
            first own line is theirs.

    Attributes:
        launcher: What those programs said, without secrets; for the hub's log only.
    """

    def __init__(
        self,
        secrets: Iterable[str],
        *,
        shown: Mapping[str, str] | None = None,
        programs: Sequence[str] = (),
    ) -> None:
        self.launcher: list[str] = []
        self._redact = Redactor(secrets)
        self._shown = shown or {}
        # made for the first line: most starts say nothing
        self._paths: re.Pattern[str] | None = None
        self._programs = tuple(f"{name}:" for name in programs)
        self._starting = bool(programs)
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

    def know(self, secrets: Iterable[str], shown: Mapping[str, str]) -> None:
        """Begin to hide what was not known when the process started."""
        self._redact = Redactor(secrets)
        self._shown = {**self._shown, **shown}
        self._paths = None

    def lines(self) -> list[str]:
        """Return the kept lines, oldest first, already redacted and neutralised."""
        lines = list(self._lines)
        if self._partial:
            line = self._clean(bytes(self._partial))
            if not self._is_launchers(line):
                lines.append(self._rename(line))
        return lines or ([_NOT_STARTED] if self.launcher else [])

    @property
    def _cut(self) -> int:
        # Redact first, cut then: a secret across the cut must not survive in part.
        return LINE_BYTES + 4 * self._redact.longest

    def _end_line(self) -> None:
        if self._skipping:
            self._skipping = False
        elif self._partial.strip():
            line = self._clean(bytes(self._partial))
            if self._is_launchers(line):
                self.launcher = [*self.launcher, line][-_LAUNCHER_LINES:]
            else:
                self._starting = False
                self._keep(self._rename(line))
        self._partial.clear()

    def _keep(self, line: str) -> None:
        self._lines.append(line)
        self._size += len(line)
        while self._size > TAIL_BYTES:
            self._size -= len(self._lines.popleft())

    def _is_launchers(self, line: str) -> bool:
        if not self._starting:
            return False
        # mount(8) goes on in indented lines
        return line.startswith(self._programs) or (bool(self.launcher) and line[:1].isspace())

    def _rename(self, line: str) -> str:
        if not self._shown:
            return line
        if self._paths is None:
            self._paths = _renaming(self._shown)
        return self._paths.sub(lambda found: self._shown[found[0]], line)

    def _clean(self, raw: bytes) -> str:
        text = self._redact(raw.decode("utf-8", "replace").rstrip("\r\n"))
        if len(text) > LINE_BYTES:
            text = text[: LINE_BYTES - 1] + "…"
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
