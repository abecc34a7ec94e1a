"""Priming: the same questions a second time in one process.

An answer that no longer needs the service behind the server came from a cache, and so tells the second caller of the first.
"""

from typing import Final

from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.oracle import RATE_LIMITED, excerpt
from mcphub.isolation.surface import Rank

_REMEDY: Final = "Of public data only traces leak. Run an instance for each user where even these are confidential."


class CacheProbe:
    """Implements `Probe`."""

    name = "cache"

    def applies(self, case: Case) -> bool:
        """When anything went out at all."""
        return any(seen.egress for seen in case.control.b)

    async def run(self, case: Case) -> list[Finding]:
        """Return the first answer that came from a cache, or was refused for somebody else's calls."""
        for first, second in zip(case.control.b, case.control.again, strict=False):
            if first.call != second.call or not first.egress or second.egress:
                continue
            tool = case.surface.tools.get(first.call.name)
            if tool is None or not first.ok or second.timed_out:
                continue
            if second.ok or RATE_LIMITED.search(second.text):
                return [_finding(first, second, changes=tool.rank is Rank.CREATE)]
        return []


def _finding(first: Observation, second: Observation, *, changes: bool) -> Finding:
    limited = bool(RATE_LIMITED.search(second.text))
    what = first.call.name
    title = (
        f"B is refused by {what} because of A's calls: they share a rate limit."
        if limited
        else f"B can tell that A asked {what} the same: the answer comes from a shared cache."
    )
    return Finding(
        leak=LeakClass.HISTORY_CACHE,
        severity=Severity.MEDIUM if changes else Severity.LOW,
        title=title,
        trace=(first, second),
        seen=f"no request left the server. {excerpt(second.text)}",
        control=f"{len(first.egress)} requests left the server. {excerpt(first.text)}",
        confidence=0.9,
        reproduced=1,
        remedy=_REMEDY,
    )
