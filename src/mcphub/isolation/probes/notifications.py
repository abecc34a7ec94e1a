"""Events of A's that reach B: on B's own session, or on a shared pipe while B calls."""

from mcphub.isolation.case import Case
from mcphub.isolation.channel import parsed
from mcphub.isolation.model import Finding, LeakClass, Severity
from mcphub.isolation.oracle import excerpt

_LATE = 3
_REMEDY = "Run an instance for each user, or at least a session for each."


class NotificationProbe:
    """Implements `Probe`."""

    name = "notifications"

    def applies(self, case: Case) -> bool:
        """When B heard anything at all."""
        return bool(case.heard or any(seen.notifications for seen in case.treatment.b))

    async def run(self, case: Case) -> list[Finding]:
        """Return the first event of A's that B got."""
        # what A's last call still says arrives in B's first ones, where both share a pipe
        late = [text for seen in case.treatment.b[_LATE:] for text in seen.notifications]
        said = "\n".join(str(dict(seen.call.arguments)) for seen in case.treatment.b)
        # what an answer of B's shows too is no event: the server tells what it does
        answers = "\n".join(seen.text for seen in case.treatment.b)
        shown = {sighting.canary for sighting in case.canaries.seen(answers)}
        for text in (*case.heard, *late):
            found = [s for s in case.canaries.seen(text, but=[said]) if s.canary not in shown]
            if found:
                origin = case.origin.get(found[0].canary)
                what = origin.call.name if origin is not None else "a file"
                return [
                    _finding(f"B is notified of what A gave to {what}.", text, found[0].canary, 1.0)
                ]
        for text in case.heard:
            message = parsed(text.encode()) or {}
            if message.get("method") == "notifications/resources/updated":
                title = "B is notified of a resource that only A subscribed to."
                return [_finding(title, text, "", 0.9)]
        return []


def _finding(title: str, text: str, around: str, confidence: float) -> Finding:
    return Finding(
        leak=LeakClass.NOTIFICATION,
        severity=Severity.HIGH if confidence == 1.0 else Severity.MEDIUM,
        title=title,
        seen=excerpt(text, around),
        control="B subscribed to nothing, and called nothing that would notify it.",
        confidence=confidence,
        reproduced=1,
        remedy=_REMEDY,
    )
