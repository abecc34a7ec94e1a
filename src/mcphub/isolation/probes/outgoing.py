"""What B's calls send: with what A logged in, or into what A chose, whatever the answer says.

A server that keeps a login in its process acts for whoever comes next with it. The service's answer need
not tell: the words that A gave are sought in the requests that B's calls cause.
"""

from collections.abc import Iterator
from typing import Final

from mcphub.catalog.spots import sounds_secret
from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity
from mcphub.isolation.replay import reproduced, sent

_SETTLE_S: Final = 0.5  # what A's call still sends later is no call of B's
_MOST: Final = 3
_LEAST_S: Final = 10.0
_LOGIN: Final = frozenset(["login", "signin", "authenticate", "auth", "connect"])
_REMEDY: Final = "Run an instance for each user: set riskLevel critical or requiresUserIsolation."


class OutgoingProbe:
    """Implements `Probe`."""

    name = "outgoing"

    def applies(self, case: Case) -> bool:
        """When a call of B's went out with words of A's."""
        return any(_sightings(case))

    async def run(self, case: Case) -> list[Finding]:
        """Return at most one finding for each class, that was shown again."""
        known = {finding.leak for finding in case.findings}
        findings: dict[LeakClass, Finding] = {}
        tried = 0
        for seen, canary, host in _sightings(case):
            leak = _class_of(case, canary)
            if leak in known or leak in findings:
                continue
            if tried >= _MOST or case.budget.left < _LEAST_S:
                break
            tried += 1
            origin, about = case.origin[canary], case.canaries.about(canary)
            trace = await reproduced(case, [origin], seen, sent(case, about), settle_s=_SETTLE_S)
            if trace:
                findings[leak] = _finding(leak, trace, origin, about.parameter, host)
        return list(findings.values())


def _sightings(case: Case) -> Iterator[tuple[Observation, str, str]]:
    """Yield B's call, the word of A's that went out with it, and where to; credentials first."""
    found = [
        (seen, canary, arrival.host or "a service")
        for seen in case.treatment.b
        for arrival in seen.egress
        for canary in sorted(arrival.said)
        if canary in case.origin and canary not in str(dict(seen.call.arguments))
    ]
    yield from sorted(found, key=lambda one: _class_of(case, one[1]) is not LeakClass.TOKEN)


def _class_of(case: Case, canary: str) -> LeakClass:
    """Tell a credential from other words: by its parameter, or by the tool that it was given to."""
    about = case.canaries.about(canary)
    tool = case.surface.tools.get(about.tool)
    login = tool is not None and not _LOGIN.isdisjoint(tool.words)
    return LeakClass.TOKEN if sounds_secret(about.parameter) or login else LeakClass.STATE


def _finding(
    leak: LeakClass, trace: tuple[Observation, ...], origin: Observation, parameter: str, host: str
) -> Finding:
    what = trace[-1].call.name or trace[-1].call.method
    return Finding(
        leak=leak,
        severity=Severity.HIGH,
        title=f"B's call of {what} goes to {host} with what A gave to {origin.call.name}.",
        trace=trace,
        seen=f"A's {parameter} arrived at {host} while B called",
        control="Without A's activity nobody knows this word.",
        reproduced=1,
        remedy=_REMEDY,
    )
