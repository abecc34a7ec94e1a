"""When instances may start: slots shared fairly between owners, and pauses after failures.

Parts of `spawn.pool`; they know no instance and no process.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mcphub.errors import Unavailable
from mcphub.policy.model import Isolation, Permit
from mcphub.spawn.launching import SHARED

_LONGEST_PAUSE_S: Final = 60.0
_KEPT: Final = 10_000
_FEWEST_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds of the pool; see `settings.Limits`."""

    instances: int
    instances_per_user: int
    starts_at_once: int
    starts_waiting: int = 500
    instances_per_group: Mapping[str, int] = field(default_factory=dict)


Key = tuple[str, str, str]
"""Owner, server and session part of an instance."""


def key_of(permit: Permit, session: str) -> Key:
    """Return the key of the instance that a permit leads to."""
    if permit.isolation is Isolation.SHARED:
        return (SHARED, permit.server, "")
    own = session if permit.isolation is Isolation.SESSION else ""
    return (permit.principal.user_id, permit.server, own)


@dataclass(slots=True)
class _Share:
    """One owner's part of the slots; lives as long as somebody holds it or waits for it."""

    gate: asyncio.Semaphore
    users: int = 0


def starts_at_once(wanted: int) -> int:
    """Return how many instances may start at the same time: as many as wanted, or, for 0, by the cores.

    A start waits a part of its time, so two keep a core busy; more only make the first one wait longer.
    """
    return wanted or max(_FEWEST_AT_ONCE, 2 * len(os.sched_getaffinity(0)))


class StartSlots:
    """Slots for starting: how many instances start at the same time, in all and for one owner.

    A server that never gets ready holds its slot until the start times out. So no owner may hold
    more than half of the slots (one at least): whatever one user starts, another's start goes on.

    Args:
        total: Starts at the same time, in all.
    """

    def __init__(self, total: int) -> None:
        self._all = asyncio.Semaphore(total)
        self._share = max(1, total // 2)
        self._owners: dict[str, _Share] = {}

    @contextlib.asynccontextmanager
    async def held_by(self, owner: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the time of the block."""
        own = self._owners.setdefault(owner, _Share(asyncio.Semaphore(self._share)))
        own.users += 1
        try:
            # the own part first: who waits for that must not stand in everybody's way
            async with own.gate, self._all:
                yield
        finally:
            own.users -= 1
            if not own.users:
                del self._owners[owner]


@dataclass(slots=True)
class _Failures:
    count: int = 0
    not_before: float = 0.0
    last: str = ""


class BackOff:
    """Pauses before a server that keeps failing is started again, each longer than the one before."""

    def __init__(self) -> None:
        self._failures: dict[Hashable, _Failures] = {}

    def __len__(self) -> int:
        """Return for how many servers failures are remembered."""
        return len(self._failures)

    def check(self, key: Hashable, server: str, now: float) -> None:
        """Let a start pass.

        Raises:
            Unavailable: It failed too often and the pause is not over; says why it failed.
        """
        failures = self._failures.get(key)
        if failures is None or failures.not_before <= now:
            return
        wait = failures.not_before - now
        raise Unavailable(
            f"Server '{server}' failed {failures.count} times in a row; the hub waits before it starts it "
            f"again. Last time: {failures.last}",
            hint=f"Try again in {wait:.0f} s.",
            retry_after_s=wait,
        )

    def failed(self, key: Hashable, reason: str, now: float) -> None:
        """Count a failure."""
        failures = self._failures.pop(key, None) or _Failures()
        failures.count += 1
        failures.last = reason
        # the first two failures cost nothing: a mended credential or a one-off must not wait
        pause = min(_LONGEST_PAUSE_S, 0.5 * 2 ** min(failures.count - 2, 10))
        failures.not_before = now + (pause if failures.count > 2 else 0.0)
        self._failures[key] = failures  # at the end: the oldest goes first
        if len(self._failures) > _KEPT:
            del self._failures[next(iter(self._failures))]

    def worked(self, key: Hashable) -> None:
        """Forget failures: it runs."""
        self._failures.pop(key, None)
