"""Where log events go on the command line: stderr, so that stdout holds results only."""

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from mcphub.audit.records import neutral

_LONGEST = 4096
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Unfailing:
    """A stream for lines that nobody waits for: what cannot be written is left out.

    A full disk under the log, or a reader that is gone, must not become an error of whatever was
    to be told: a request, or the look after revocations. Nothing is held for later, as the exit status of
    the process would tell of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._raw = getattr(getattr(stream, "buffer", None), "raw", None)
        self._line = ""

    def write(self, text: str) -> int:
        """Keep a part of a line until it is flushed."""
        self._line += text
        return len(text)

    def flush(self) -> None:
        """Write the line, or leave it."""
        line, self._line = self._line, ""
        with contextlib.suppress(OSError, ValueError):  # a closed one raises ValueError
            if self._raw is None:
                self._stream.write(line)
                self._stream.flush()
                return
            data = line.encode("utf-8", "backslashreplace")
            while data and (written := self._raw.write(data)):
                data = data[written:]


def _severity(_: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the severity as `severity`: events of the sandbox have a `level` of their own."""
    event["severity"] = name
    return event


def _neutralise(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Bound every text and take out what acts on a terminal, whoever wrote it (rule R24)."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = neutral(value, _LONGEST)
    return event


def _for_people(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Return what writes lines for people: its column of the level shows `severity`, and `level` is any field."""
    found = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback
    )
    found.columns = [
        structlog.dev.Column("severity", column.formatter) if column.key == "level" else column
        for column in found.columns
    ]
    return found


def log_to_stderr(level: str, *, serving: bool = False) -> None:
    """Send log events to stderr: lines for people on a terminal, else JSON when serving."""
    number = _LEVELS[level]
    stream = cast("TextIO", _Unfailing(sys.stderr))
    logging.basicConfig(stream=stream, level=max(number, logging.WARNING))
    plain = sys.stderr.isatty() or not serving
    renderer: Any = (
        _for_people(colors=sys.stderr.isatty()) if plain else structlog.processors.JSONRenderer()
    )
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _severity,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _neutralise,
    ]
    if not plain:
        processors.append(structlog.processors.format_exc_info)
    structlog.configure(
        processors=[*processors, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
