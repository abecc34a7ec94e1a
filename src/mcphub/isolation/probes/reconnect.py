"""What a session leaves behind: A planted and left, then B comes in a new session."""

from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding, LeakClass, Severity
from mcphub.isolation.oracle import excerpt


class ReconnectProbe:
    """Implements `Probe`."""

    name = "reconnect"

    def applies(self, case: Case) -> bool:
        """For servers with sessions, when two sessions at a time showed nothing."""
        known = {finding.leak for finding in case.findings}
        return bool(case.treatment.again) and LeakClass.STATE not in known

    async def run(self, case: Case) -> list[Finding]:
        """Return a finding when B's new session shows what A's old one was given."""
        run = case.treatment
        # what B named before, B may have made itself
        named = [str(dict(seen.call.arguments)) for seen in (*run.b, *run.follow, *run.foreign)]
        for seen in run.again:
            for sighting in case.canaries.seen(seen.text, but=[*named, seen.call.name]):
                origin = case.origin.get(sighting.canary)
                if origin is None or origin.user != "A" or sighting.about.path:
                    continue
                return [
                    Finding(
                        leak=LeakClass.STATE,
                        severity=Severity.HIGH,
                        title=(
                            f"B's new session shows with {seen.call.name or seen.call.method} what "
                            f"A's ended one was given by {origin.call.name}."
                        ),
                        trace=(origin, seen),
                        seen=excerpt(sighting.around, sighting.canary),
                        control="Without A's activity the canary does not exist.",
                        reproduced=1,
                        remedy="Run an instance for each user.",
                    )
                ]
        return []
