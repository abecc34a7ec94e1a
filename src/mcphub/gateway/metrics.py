"""Counters of the data plane: plain numbers on the call path, Prometheus text when somebody asks.

No label names a user, a session or anything else that a client chooses: servers are those of the
settings, methods those of the protocol. Source: Prometheus text format 0.0.4.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import Final

BOUNDS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    60.0,
)
_METHODS: Final = frozenset(
    {
        "initialize", "ping", "server/discover", "tools/list", "tools/call", "prompts/list", "prompts/get",
        "resources/list", "resources/templates/list", "resources/read", "resources/subscribe",
        "resources/unsubscribe", "completion/complete", "logging/setLevel",
    }
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """Calls of one method of one server.

    Attributes:
        outcomes: Outcome -> calls that ended so.
        buckets: How many took no longer than each bound; the last ones took longer.
        seconds: Of all of them.
    """

    outcomes: dict[str, int] = field(default_factory=dict)
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    seconds: float = 0.0

    def ended(self, outcome: str, seconds: float) -> None:
        """Count a call."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        self.buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class Metrics:
    """What happened since the hub started.

    Attributes:
        fast: Calls that the fast lane answered.
        known: Calls that were sent as an earlier one of their caller was decided.
    """

    fast: int = 0
    known: int = 0
    _tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def of(self, server: str, method: str) -> Tally:
        """Return what is counted of a method; `server` is the name of a spec, "" for the hub itself."""
        key = server, method if method in _METHODS else "other"
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = Tally()
        return tally

    def text(self, now: Mapping[str, float]) -> str:
        """Return everything as Prometheus text.

        Args:
            now: Further figures of the hub as it is now, by metric name; names that end in `_total`
                only grow.
        """
        lines = [
            "# HELP mcphub_calls_total MCP requests that ended.",
            "# TYPE mcphub_calls_total counter",
        ]
        buckets: dict[str, list[int]] = {}
        seconds: dict[str, float] = {}
        for (server, method), tally in sorted(self._tallies.items()):
            lines += [
                f'mcphub_calls_total{{server="{server}",method="{method}",outcome="{outcome}"}} {count}'
                for outcome, count in sorted(tally.outcomes.items())
            ]
            before = buckets.get(server, [0] * len(tally.buckets))
            buckets[server] = list(map(add, before, tally.buckets))
            seconds[server] = seconds.get(server, 0.0) + tally.seconds
        lines += [
            "# HELP mcphub_call_seconds Time from the request to its answer.",
            "# TYPE mcphub_call_seconds histogram",
        ]
        for server, counts in buckets.items():
            for bound, so_far in zip((*BOUNDS_S, "+Inf"), accumulate(counts), strict=True):
                lines.append(
                    f'mcphub_call_seconds_bucket{{server="{server}",le="{bound}"}} {so_far}'
                )
            lines.append(f'mcphub_call_seconds_sum{{server="{server}"}} {seconds[server]:.6f}')
            lines.append(f'mcphub_call_seconds_count{{server="{server}"}} {sum(counts)}')
        own = {"mcphub_fast_lane_calls_total": self.fast, "mcphub_known_ways_total": self.known}
        for name, value in (own | dict(now)).items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
