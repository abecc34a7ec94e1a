"""What a user-aware HTTP server does for a caller without identity, and on somebody else's session.

A server that takes the deployment's credential for a caller that proved nothing fails open. One that
binds the identity to the session needs a session for each user.
"""

from mcphub.errors import HubError
from mcphub.isolation.case import Case
from mcphub.isolation.channel import HttpChannel
from mcphub.isolation.lab import Running
from mcphub.isolation.model import Arrangement, Finding, LeakClass, Observation, Severity
from mcphub.isolation.probes.token import aware, foreign

_CALLS = 6


class OpennessProbe:
    """Implements `Probe`."""

    name = "openness"

    def applies(self, case: Case) -> bool:
        """Whenever the server took a user's own credential."""
        return aware(case)

    async def run(self, case: Case) -> list[Finding]:
        """Return a finding when a call without identity goes out with a shared credential."""
        try:
            running = await case.spare()
            anonymous = await self._anonymous(case, running)
            await self._swapped(case, running)
        except HubError:
            return []
        found = foreign(case, anonymous)
        if found is None:
            return []
        seen, label, host, _ = found
        return [
            Finding(
                leak=LeakClass.TOKEN,
                severity=Severity.HIGH,
                title=(
                    f"A call without identity goes to {host} with the shared {label}: the server "
                    "fails open."
                ),
                trace=(seen,),
                seen=f"{label} arrived at {host} while nobody had proved an identity",
                control="With B's own credential the call goes out with that one.",
                reproduced=1,
                remedy="Do not give the deployment a credential; forward each user's own.",
            )
        ]

    async def _anonymous(self, case: Case, running: Running) -> list[Observation]:
        running.leave("B")
        try:
            await running.join("B", {})
            return [await running.call("B", seen.call) for seen in _outgoing(case)]
        except HubError:
            return []  # refused without identity: that is right
        finally:
            running.leave("B")

    async def _swapped(self, case: Case, running: Running) -> None:
        """Call on A's session with B's credential, and note whose went out."""
        await case.join(running)
        a, b = running.channel("A"), running.channel("B")
        if not (isinstance(a, HttpChannel) and isinstance(b, HttpChannel) and a.session_id):
            return
        own, b.session_id = b.session_id, a.session_id
        seen = [await running.call("B", outgoing.call) for outgoing in _outgoing(case)]
        b.session_id = own
        if any("user:A" in arrival.credentials for one in seen for arrival in one.egress):
            case.notes.append(
                "On A's session B's call went out with A's credential: the identity is bound to "
                f"the session ({Arrangement.ONE_SESSION}). Each user needs a session."
            )


def _outgoing(case: Case) -> list[Observation]:
    return [seen for seen in case.control.b if seen.egress][:_CALLS]
