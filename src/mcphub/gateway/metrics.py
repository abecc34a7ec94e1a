"""Counters of the data plane: plain numbers on the call path, Prometheus text when somebody asks.

No label names a user, a session or anything else that a client chooses: servers are those of the
settings, methods those of the protocol. Source: Prometheus text format 0.0.4.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
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
class Metrics:
    """What happened since the hub started.

    Attributes:
        calls: (server or "", method or "other", outcome) -> calls that ended.
        fast: Calls that the fast lane answered.
    """

    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    fast: int = 0
    _durations: dict[str, list[int]] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=dict)

    def ended(self, server: str, method: str, outcome: str, seconds: float) -> None:
        """Count a call; `server` is the name of a spec, or "" when the hub itself answered."""
        self.calls[server, method if method in _METHODS else "other", outcome] += 1
        buckets = self._durations.get(server)
        if buckets is None:
            buckets = self._durations[server] = [0] * (len(BOUNDS_S) + 1)
            self._seconds[server] = 0.0
        buckets[bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[server] += seconds

    def text(self, now: Mapping[str, float]) -> str:
        """Return everything as Prometheus text.

        Args:
            now: Further figures of the hub as it is now, by metric name; names that end in `_total`
                only grow.
        """
        lines = [
            "# HELP mcphub_calls_total MCP requests that ended.",
            "# TYPE mcphub_calls_total counter",
            *(
                f'mcphub_calls_total{{server="{server}",method="{method}",outcome="{outcome}"}} {count}'
                for (server, method, outcome), count in sorted(self.calls.items())
            ),
            "# HELP mcphub_call_seconds Time from the request to its answer.",
            "# TYPE mcphub_call_seconds histogram",
        ]
        for server in sorted(self._durations):
            so_far = 0
            for bound, count in zip((*BOUNDS_S, "+Inf"), self._durations[server], strict=True):
                so_far += count
                lines.append(
                    f'mcphub_call_seconds_bucket{{server="{server}",le="{bound}"}} {so_far}'
                )
            lines.append(
                f'mcphub_call_seconds_sum{{server="{server}"}} {self._seconds[server]:.6f}'
            )
            lines.append(f'mcphub_call_seconds_count{{server="{server}"}} {so_far}')
        for name, value in {"mcphub_fast_lane_calls_total": self.fast, **now}.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {name} {kind}", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
