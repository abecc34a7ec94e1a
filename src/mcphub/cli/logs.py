"""Where log events go on the command line: stderr, so that stdout holds results only."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from mcphub.audit.records import neutral

_LONGEST = 4096
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


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


def log_to_stderr(level: str, *, serving: bool = False) -> None:
    """Send log events to stderr: lines for people on a terminal, else JSON when serving."""
    number = _LEVELS[level]
    logging.basicConfig(stream=sys.stderr, level=max(number, logging.WARNING))
    plain = sys.stderr.isatty() or not serving
    renderer: Any = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if plain
        else structlog.processors.JSONRenderer()
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
