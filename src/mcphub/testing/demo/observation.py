"""What a scenario observed, and what a run of all of them amounts to."""

from dataclasses import dataclass

from mcphub.errors import HubError


@dataclass(frozen=True, slots=True)
class Observation:
    """What came back to the two users of one play.

    Attributes:
        leaked: Something of one user reached the other, or acted in the other's name.
        evidence: What was seen, in words; holds aliases and canaries, never a credential.
    """

    leaked: bool
    evidence: str


class CouldNotRun(Exception):
    """A scenario's own preconditions failed, so that "no leak" would mean nothing."""


def reason(error: BaseException) -> str:
    """Return what went wrong in words, from inside the groups that task groups wrap it in."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(reason(inner) for inner in error.exceptions))
    if isinstance(error, CouldNotRun | HubError):
        return str(error)
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario's two outcomes; a text in place of an observation says why there is none.

    Attributes:
        key: Short stable name.
        title: What is at stake.
        server: The published package.
        before: One shared server.
        after: Through the hub.
    """

    key: str
    title: str
    server: str
    before: Observation | str
    after: Observation | str

    def problem(self) -> str:
        """Return why this row proves nothing or proves a leak; empty when it stands."""
        if isinstance(self.after, str):
            return f"the hub could not be tried: {self.after}"
        if self.after.leaked:
            return f"LEAK through the hub: {self.after.evidence}"
        if isinstance(self.before, str):
            return f"the shared server could not be tried: {self.before}"
        if not self.before.leaked:
            return "the shared server no longer leaks, so this row proves nothing"
        return ""


def problems(rows: list[Row]) -> list[str]:
    """Return the reasons for which the run as a whole fails, each once; no rows is one.

    A hub that does not start stops every row for the same reason: that is one line.
    """
    if not rows:
        return ["nothing was run"]
    found: dict[str, list[str]] = {}
    for row in rows:
        if problem := row.problem():
            found.setdefault(problem, []).append(row.key)
    return [f"{', '.join(keys)}: {problem}" for problem, keys in found.items()]
