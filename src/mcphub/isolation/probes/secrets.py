"""Planted credentials in what a server says: results, errors, lists, notifications."""

from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding, LeakClass, Severity
from mcphub.isolation.oracle import excerpt
from mcphub.isolation.recipe import uses_paths


class SecretProbe:
    """Implements `Probe`."""

    name = "secrets"

    def applies(self, case: Case) -> bool:  # noqa: ARG002  the seam names it
        """Always: a sentinel stands in every environment."""
        return True

    async def run(self, case: Case) -> list[Finding]:
        """Return the first sighting."""
        found: Finding | None = None
        for run in (case.control, case.treatment):
            for seen in (*run.b, *run.follow, *run.foreign, *run.a):
                said = [str(dict(seen.call.arguments))]
                for sighting in case.lab.secrets.seen(seen.all_text, but=said):
                    if sighting.about.startswith("user:"):
                        continue
                    tool = case.surface.tools.get(seen.call.name)
                    if tool is not None and uses_paths(seen.call.arguments, tool):
                        continue  # a file that was asked for: of the filesystem class
                    place = sighting.about.partition(":")[2]
                    what = seen.call.name or seen.call.method
                    found = found or Finding(
                        leak=LeakClass.SECRET,
                        severity=Severity.HIGH,
                        title=f"{what} tells the value of {place} from the server's environment.",
                        trace=(seen,),
                        seen=excerpt(sighting.around, sighting.canary).replace(
                            sighting.canary, "<planted credential>"
                        ),
                        control="The value exists nowhere but in the launch of this server.",
                        reproduced=1,
                        remedy="Run an instance for each user with that user's own credentials only.",
                    )
        return [found] if found else []
