"""What a session leaves behind: A plants and leaves, then B comes."""

from mcphub.errors import HubError
from mcphub.isolation.case import Case, Run
from mcphub.isolation.model import Finding, LeakClass, Severity
from mcphub.isolation.oracle import excerpt
from mcphub.isolation.script import Script, settle


class ReconnectProbe:
    """Implements `Probe`."""

    name = "reconnect"

    def applies(self, case: Case) -> bool:
        """For servers with sessions, when two sessions at a time showed nothing."""
        known = {finding.leak for finding in case.findings}
        return case.lab.subject.is_http and LeakClass.STATE not in known

    async def run(self, case: Case) -> list[Finding]:
        """Return a finding when B's new session shows what A's old one was given."""
        run = Run()
        try:
            async with case.lab.start(with_a=True) as running:
                await case.join(running, "A")
                await Script(case, running).plant(run)
                running.leave("A")
                await settle()
                await case.join(running, "B")
                await Script(case, running).look(run.b, like=case.control.b)
        except HubError:
            return []
        for seen in run.b:
            said = [str(dict(seen.call.arguments)), seen.call.name]
            for sighting in case.canaries.seen(seen.text, but=said):
                origin = case.origin.get(sighting.canary)
                if origin is None or sighting.about.path:
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
