"""Where log events go on the command line: stderr, so that stdout holds results only."""

import contextlib
import io
import logging
import select
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO, cast

import structlog

from mcphub.audit.records import neutral

_LONGEST = 4096
_PIECE = 4096
"""Bytes that a descriptor which is ready takes without making the writer wait (`PIPE_BUF`, pipe(7))."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class _Unfailing:
    """A stream for lines that nobody waits for: what cannot be written is left out.

    A full disk under the log, a reader that is gone, or one that stands still (Ctrl-S) must not become an
    error, or a wait, of whatever was to be told: a request, or the look after revocations. Nothing is held for
    later, as the exit status of the process would tell of it. What was left out is counted, and told when
    lines are taken again.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._raw: io.RawIOBase | None = getattr(getattr(stream, "buffer", None), "raw", None)
        self._line = ""
        self._lost = 0
        self._is_cut = False

    def write(self, text: str) -> int:
        """Keep a part of a line until it is flushed."""
        self._line += text
        return len(text)

    def flush(self) -> None:
        """Write the line, or leave it."""
        line, self._line = self._line, ""
        if self._raw is None:
            with contextlib.suppress(OSError, ValueError):  # a closed one raises ValueError
                self._stream.write(line)
                self._stream.flush()
            return
        before = b""
        if self._lost:
            told = b'{"event": "log.lines_lost", "count": %d}\n' % self._lost
            before = b"\n" * self._is_cut + told
        data = before + line.encode("utf-8", "backslashreplace")
        written = _taken(self._raw, data)
        if written >= len(before):
            self._lost = 0
        if written < len(data):
            self._lost += 1
        if written:
            self._is_cut = written not in {len(before), len(data)}


def _taken(raw: io.RawIOBase, data: bytes) -> int:
    """Return how many bytes are taken without making the writer wait; a file takes all."""
    done = 0
    with contextlib.suppress(OSError, ValueError):  # a closed one raises ValueError
        ready = select.poll()
        ready.register(raw, select.POLLOUT)
        while done < len(data) and ready.poll(0):
            written = raw.write(data[done : done + _PIECE])
            if not written:
                break
            done += written
    return done


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
