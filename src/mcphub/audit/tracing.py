"""Spans of calls for OpenTelemetry: which calls have one, and a bounded buffer until they are exported.

A span is made of the request record of a call that ended (`otlp` writes it): no task, no timer and no
context variable on the way of a call, and nothing at all for a call without one. Like a record it
holds no arguments, answers, session ids or secrets (rule R24). Source: W3C Trace Context, level 1.
"""

import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from mcphub.audit.records import RequestRecord

_log = structlog.get_logger()

KEPT: Final = 8192
BATCH: Final = 16
"""Spans of one export: Python writes them in about a millisecond, for which the event loop may wait."""
_FLUSH_S: Final = 1.0
_STOP_S: Final = 3.0
_SAMPLED: Final = 1


class Trace(NamedTuple):
    """Where the span of a call stands, all as lowercase hexadecimal.

    Attributes:
        trace_id: Of the caller's `traceparent`, else new.
        span_id: The hub's own span.
        parent_id: The caller's span, or "".
    """

    trace_id: str
    span_id: str
    parent_id: str = ""

    @property
    def onward(self) -> str:
        """The `traceparent` that the call's server gets."""
        return f"00-{self.trace_id}-{self.span_id}-01"


class Ended(NamedTuple):
    """A call that has a span and ended; `version` is the protocol's revision, or ""."""

    trace: Trace
    record: RequestRecord
    version: str


Export = Callable[[Sequence[Ended]], str]
"""Sends spans; returns why they did not arrive, or "". Called in a thread of its own, may wait."""


class Traces:
    """Decides which calls have a span, and exports those from a thread of its own.

    Args:
        export: Sends spans.
        cut: Ends what `export` waits for.
        share: Of calls whose caller does not ask for a span: 0 to 1.
        flush_s: Seconds between two looks at the buffer.
    """

    def __init__(
        self, export: Export, cut: Callable[[], None], share: float, *, flush_s: float = _FLUSH_S
    ) -> None:
        self._export, self._cut, self._share, self._flush_s = export, cut, share, flush_s
        self._buffer: deque[Ended] = deque()
        self._stopping = threading.Event()
        # A daemon: a collector that never ends its answer must not keep the hub from ending.
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._failing = self._closed = False
        self._full = self._failed = self.exported = 0

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def close(self) -> None:
        """Export what is left, for three seconds at most, and end. Waits: call it in a thread."""
        self._stopping.set()
        self._thread.join(_STOP_S)
        self._closed = True
        self._cut()
        if self._thread.is_alive() or self._buffer:
            _log.warning("tracing.spans_lost", count=len(self._buffer))

    @property
    def waiting(self) -> int:
        """How many spans are not exported yet."""
        return len(self._buffer)

    @property
    def dropped(self) -> int:
        """How many were lost: the buffer was full, or the collector did not take them."""
        return self._full + self._failed

    def by_chance(self) -> bool:
        """Whether a call has a span that its caller did not ask for."""
        return self._share > 0 and random.random() < self._share  # noqa: S311

    def begin(
        self, trace_id: str, parent_id: str, flags: str, *, chosen: bool = False
    ) -> Trace | None:
        """Return the trace of a call that gets a span, else None.

        Args:
            trace_id: Of a valid `traceparent`, like the others; "" without one.
            parent_id: The caller's span.
            flags: Two hexadecimal digits; the lowest bit asks for a span.
            chosen: `by_chance` has said that this call has one.
        """
        if not (flags and int(flags, 16) & _SAMPLED) and not chosen and not self.by_chance():
            return None
        return Trace(trace_id or secrets.token_hex(16), secrets.token_hex(8), parent_id)

    def add(self, trace: Trace, record: RequestRecord, version: str) -> None:
        """Take a call that ended. Never waits, never raises."""
        if len(self._buffer) < KEPT:
            self._buffer.append(Ended(trace, record, version))
        else:
            self._full += 1

    def _run(self) -> None:
        while not self._stopping.wait(self._flush_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        while self._buffer:
            spans = [self._buffer.popleft() for _ in range(min(BATCH, len(self._buffer)))]
            try:
                reason = self._export(spans)
            except Exception as error:  # noqa: BLE001  the boundary: tracing goes on with the next ones
                reason = type(error).__name__
            if self._closed:
                return  # the hub has ended, and has said what was lost
            if reason:
                self._failed += len(spans)
                if not self._failing:
                    _log.warning("tracing.export_failed", reason=reason)
            else:
                self.exported += len(spans)
                if self._failing:
                    _log.info("tracing.exported_again", dropped=self.dropped)
            self._failing = bool(reason)
