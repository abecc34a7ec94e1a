"""Whose credential goes out when B calls: seen by the witness, or plain from the launch line."""

from collections.abc import Iterable

from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding, LeakClass, Observation, Severity

_REMEDY = "Make the credential a slot of each user (${USER_…}) and run an instance for each user."


class TokenProbe:
    """Implements `Probe`."""

    name = "token"

    def applies(self, case: Case) -> bool:
        """When there is a credential that could be used for the wrong user."""
        return bool(case.lab.disguise.given) or case.lab.subject.is_http

    async def run(self, case: Case) -> list[Finding]:
        """Return at most one finding: the clearest."""
        seen = foreign(case, (*case.control.b, *case.treatment.b, *case.treatment.follow))
        if seen is not None:
            observation, label, host, is_a = seen
            return [
                Finding(
                    leak=LeakClass.TOKEN,
                    severity=Severity.HIGH,
                    title=(
                        f"B's call of {observation.call.name or observation.call.method} goes to "
                        f"{host} with {'the credential of A' if is_a else f'the shared {label}'}."
                    ),
                    trace=(observation,),
                    seen=f"{label} arrived at {host} while B called",
                    control="B has no part in this credential.",
                    reproduced=1,
                    remedy=_REMEDY,
                )
            ]
        return self._by_itself(case) or self._behind(case)

    def _by_itself(self, case: Case) -> list[Finding]:
        """Return what a server on a pipe sends without being called: it logs in once, for all who come."""
        if case.lab.subject.is_http or case.lab.behind_hub:
            return []  # callers may prove who they are, and have a credential of their own
        given = {credential.label for credential in case.lab.disguise.given}
        for arrival in case.lab.witness.since(0):
            for label in sorted(arrival.credentials & given):
                host = arrival.host or "a service"
                return [
                    Finding(
                        leak=LeakClass.TOKEN,
                        severity=Severity.HIGH,
                        title=f"The server acts at {host} with the shared {label}, whoever calls.",
                        trace=(),
                        seen=f"{label} arrived at {host}",
                        control="No caller has another credential: on a pipe nobody says who calls.",
                        confidence=0.95,
                        remedy=_REMEDY,
                    )
                ]
        return []

    def _behind(self, case: Case) -> list[Finding]:
        """Return what follows from the launch line: a backend reached with one credential for all."""
        for backend in case.lab.backends:
            calls = (*case.treatment.b, *case.control.b)  # what A did may keep B's from working
            used = next((b for b in calls if b.ok and b.call.method == "tools/call"), None)
            if backend.credential and used is not None and backend.reached:
                return [
                    Finding(
                        leak=LeakClass.TOKEN,
                        severity=Severity.HIGH,
                        title=(
                            f"Every caller works in {backend.kind} as the one account of the "
                            f"launch line ({backend.credential})."
                        ),
                        trace=(used,),
                        seen=f"connections to {backend.named} with {backend.credential}",
                        control="B has no part in this credential.",
                        confidence=0.95,
                        reproduced=1,
                        remedy=_REMEDY,
                    )
                ]
        return []


def aware(case: Case) -> bool:
    """Tell whether B's own credential went out for B."""
    return any(
        "user:B" in arrival.credentials
        for run in (case.control, case.treatment)
        for seen in run.b
        for arrival in seen.egress
    )


def foreign(
    case: Case, observations: Iterable[Observation]
) -> tuple[Observation, str, str, bool] | None:
    """Return the first call of B that went out with a credential which is not B's."""
    given = {credential.label for credential in case.lab.disguise.given}
    for seen in observations:
        for arrival in seen.egress:
            for label in sorted(arrival.credentials):
                if label == "user:A" or label in given:
                    return seen, label, arrival.host or "a service", label == "user:A"
    return None
