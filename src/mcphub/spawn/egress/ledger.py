"""What instances did with their network: per instance for a puzzled user, per user for the audit log.

Decisions of the gateway come one by one; what is kept is bounded: counts, and a limited number of
destinations each. `due` hands out and forgets what is to be written down, one entry for each user and
server, so that a busy server makes no long audit log.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from mcphub.spawn.egress.events import EgressEvent

_log = structlog.get_logger()
_DESTINATIONS: Final = 100
_TOLD: Final = 20
_PAIRS: Final = 10_000
_INSTANCES: Final = 20_000


@dataclass(slots=True)
class Use:
    """What was done so far.

    Attributes:
        allowed, refused: Connections (refused: names too) by `host:port`.
        others: Decisions about destinations beyond the number that is kept apart.
        sent, received: Bytes of ended connections, as the instance sees them.
    """

    allowed: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    others: int = 0
    sent: int = 0
    received: int = 0

    def take(self, event: EgressEvent) -> None:
        """Count one event."""
        self.sent += event.sent
        self.received += event.received
        if event.kind not in {"allowed", "refused"}:
            return
        seen = self.allowed if event.kind == "allowed" else self.refused
        destination = f"{event.host}:{event.port}"
        if destination in seen or len(seen) < _DESTINATIONS:
            seen[destination] += 1
        else:
            self.others += 1

    def detail(self, server: str) -> dict[str, str]:
        """Return it as the detail of an audit event."""
        told = {"server": server, "sent": str(self.sent), "received": str(self.received)}
        for name, seen in (("allowed", self.allowed), ("refused", self.refused)):
            if seen:
                told[name] = str(seen.total())
                told[f"{name}_to"] = ", ".join(
                    f"{destination} ({count})" for destination, count in seen.most_common(_TOLD)
                )
        if self.others:
            told["others"] = str(self.others)
        return told


class EgressLedger:
    """Takes every event of the gateway.

    Attributes:
        whose: Returns (user, server) of a running instance, or None; set by the hub.
    """

    def __init__(self) -> None:
        self.whose: Callable[[str], tuple[str, str] | None] = lambda _: None
        self._instances: dict[str, Use] = {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._pairs: dict[tuple[str, str], Use] = {}

    def take(self, event: EgressEvent) -> None:
        """Count a decision, or the end of a connection."""
        if event.kind == "refused":
            to = f"{event.host}:{event.port}"
            _log.info("egress.refused", instance=event.instance_id, to=to, why=event.reason)
        name = event.instance_id
        owner = self._owners.get(name) or self.whose(name)
        if owner is None:
            return  # a probe, or gone for long
        if name not in self._owners and len(self._owners) >= _INSTANCES:
            self._owners.pop(next(iter(self._owners)))
        self._owners[name] = owner
        if name in self._instances or self.whose(name) is not None:
            self._instances.setdefault(name, Use()).take(event)
        if owner in self._pairs or len(self._pairs) < _PAIRS:
            self._pairs.setdefault(owner, Use()).take(event)

    def refused(self, instance_id: str) -> dict[str, int]:
        """Return destination -> how often it was refused, of one running instance."""
        use = self._instances.get(instance_id)
        return dict(use.refused) if use is not None else {}

    def counts(self, instance_id: str) -> dict[str, int]:
        """Return connections and bytes of one running instance."""
        use = self._instances.get(instance_id) or Use()
        return {
            "connections": use.allowed.total(),
            "refused": use.refused.total(),
            "sent": use.sent,
            "received": use.received,
        }

    def forget(self, instance_id: str) -> None:
        """Drop the counts of an instance that is gone; what it did is still due."""
        self._instances.pop(instance_id, None)

    def due(self) -> list[tuple[str, dict[str, str]]]:
        """Return (user, detail) of all that was done since the last time."""
        done, self._pairs = self._pairs, {}
        here = self._instances
        self._owners = {name: owner for name, owner in self._owners.items() if name in here}
        return [(user, use.detail(server)) for (user, server), use in done.items()]
