"""Opaque identifiers and secrets.

Ids never carry a user-controlled name, so they are safe in paths and logs (rule R23). Session ids
and API keys have 256 bits from the operating system's generator (rule R3).
"""

import secrets
import time
from typing import ClassVar, Protocol

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32: no i, l, o, u


class Clock(Protocol):
    """Seconds since the epoch, UTC. Passed in, so that tests can move it."""

    def __call__(self) -> float:
        """Return the time."""
        ...


system_clock: Clock = time.time
"""The wall clock; nothing else reads it."""


def steady_clock() -> float:
    """Return seconds that go on evenly, asleep too, whatever is done to the wall clock; for durations."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LateClock:
    """A wall clock for what cannot be undone: a jump forward counts after a day, one backward at once.

    It says the earlier of what the wall clock says now and what it said at the beginning, plus the time
    that really went by. So what is destroyed at a date may be destroyed late, and never early, as long
    as this process runs. A wall clock that keeps its lead for `TRUSTED_S` was wrong before, as that of a
    machine that asked for the time only after the hub had started: it is followed then, or nothing would
    ever be due.

    Args:
        wall: The wall clock.
        steady: Goes on evenly.
    """

    TRUSTED_S: ClassVar[float] = 86_400.0
    _SLACK_S: ClassVar[float] = 1.0

    def __init__(self, wall: Clock, steady: Clock = steady_clock) -> None:
        self._wall, self._steady = wall, steady
        self._ahead = wall() - steady()
        self._leads_since: float | None = None

    def __call__(self) -> float:
        """Return the time in seconds since the epoch (UTC)."""
        wall, steady = self._wall(), self._steady()
        if wall <= self._ahead + steady + self._SLACK_S:
            self._leads_since = None
        elif self._leads_since is None:
            self._leads_since = steady
        elif steady - self._leads_since >= self.TRUSTED_S:
            self._ahead, self._leads_since = wall - steady, None
        return min(wall, self._ahead + steady)


def opaque(prefix: str) -> str:
    """Return `prefix_` and 26 random base32 characters (130 bits), lower case."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(26))


def user_id() -> str:
    """Return a new user id, `u_…`."""
    return opaque("u")


def instance_id() -> str:
    """Return a new instance id, `i_…`."""
    return opaque("i")


def session_id() -> str:
    """Return a new legacy MCP session id: 256 bits, visible ASCII only (MCP 2025-11-25, transports)."""
    return secrets.token_urlsafe(32)


class RequestIds:
    """Request ids: 16 hex characters of this process's random start, then a counter.

    Cheaper than a random id per call, unique across restarts (64 random bits), sortable within one
    process. Not a secret.
    """

    def __init__(self) -> None:
        self._prefix = "r_" + secrets.token_hex(8)
        self._next = 0

    def new(self) -> str:
        """Return the next id."""
        self._next += 1
        return f"{self._prefix}{self._next:08x}"
