"""`RequestRecord`: what is kept of one request. Never its arguments, its answer or a secret."""

import hashlib
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

_INT64: Final = 2**63 - 1
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


class Outcome(StrEnum):
    """How a request ended, as its caller saw it."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    ERROR = "error"
    DENIED = "denied"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"


FAILURES: Final = (Outcome.TOOL_ERROR, Outcome.ERROR, Outcome.TIMEOUT, Outcome.UNAVAILABLE)
"""Outcomes that statistics count as errors; a refusal and a caller's own cancellation are none."""


@dataclass(slots=True)
class RequestRecord:
    """One request: made when it begins, completed when it ends, then given to the `Recorder`.

    Texts may be as they came: the recorder bounds and neutralises them when it writes (rule R24).

    Attributes:
        id: The hub's request id, `r_…`; unique.
        at: Epoch seconds, UTC, at which it began.
        user_id: The caller's opaque id.
        server: Server spec's name; empty when there is none.
        method: MCP method.
        duration_ms: From the first byte in to the last byte out.
        session: `session_tag` of a legacy session, else empty. Never the session id.
        name: Tool or prompt; of a resource only the URI's scheme.
        instance_id: The instance that served it.
        era: `legacy` or `modern`.
        client: The client's `name/version`, as it says itself.
        decision: `permit`, or the rule that refused.
        outcome: How it ended.
        error_code: JSON-RPC error code, if it ended with one.
        bytes_in: Size of the request's body.
        bytes_out: Size of the answer.
        trace_id: Trace id of the caller's `traceparent`, else empty.
    """

    id: str
    at: float
    user_id: str
    server: str
    method: str
    duration_ms: float = 0.0
    session: str = ""
    name: str = ""
    instance_id: str = ""
    era: str = ""
    client: str = ""
    decision: str = "permit"
    outcome: Outcome = Outcome.OK
    error_code: int | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    trace_id: str = ""


def session_tag(session_id: str) -> str:
    """Return what may be kept of a session id: 32 bits of its hash, enough to tell sessions apart."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:8]


def neutral(text: str, length: int) -> str:
    """Return the text without invisible characters (each becomes U+FFFD), cut to `length`."""
    if len(text) <= length and text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(each) in _INVISIBLE else each for each in text[:length]
    )


OWN: Final = ("id", "at", "duration_ms", "outcome", "error_code", "bytes_in", "bytes_out")
ALIKE: Final = (
    "user_id", "session", "server", "method", "name", "instance_id", "era", "client", "decision",
    "trace_id",
)  # fmt: skip

Own = tuple[str, float, float, str, int | None, int, int]
"""What is each request's own: the values of `OWN`, in that order."""
Alike = tuple[str, ...]
"""What many requests have alike: the values of `ALIKE`, in that order."""


def own(record: RequestRecord) -> Own:
    """Return what is a record's own as every database takes it, whatever a client has put into it."""
    return (
        neutral(record.id, 64),
        record.at,
        max(0.0, record.duration_ms),
        record.outcome.value,
        None if record.error_code is None else _int64(record.error_code),
        _int64(record.bytes_in),
        _int64(record.bytes_out),
    )


def alike(record: RequestRecord) -> Alike:
    """Return what all calls of a caller to one tool have alike, as every database takes it."""
    return (
        neutral(record.user_id, 64),
        neutral(record.session, 8),
        neutral(record.server, 63),
        neutral(record.method, 64),
        neutral(record.name, 128),
        neutral(record.instance_id, 64),
        neutral(record.era, 16),
        neutral(record.client, 128),
        neutral(record.decision, 64),
        neutral(record.trace_id, 64),
    )


def ended_at(call: Own) -> float:
    """Return when a request ended (epoch seconds)."""
    return call[1] + call[2] / 1000


def _int64(value: int) -> int:
    return max(-_INT64, min(_INT64, value))
