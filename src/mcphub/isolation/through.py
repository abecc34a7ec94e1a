"""The check of a server that somebody else runs: the same script and probes, on their lab."""

from collections.abc import Callable
from time import monotonic

from mcphub.errors import HubError
from mcphub.isolation.behind import HubLab
from mcphub.isolation.budget import Budget
from mcphub.isolation.case import Case
from mcphub.isolation.check import checked
from mcphub.isolation.model import Result, Verdict
from mcphub.isolation.remote import RemoteLab


async def check_through(
    lab: HubLab | RemoteLab, seconds: float, progress: Callable[[str], None]
) -> Result:
    """Check one server behind a hub, or at its address; never raises for what server or hub do.

    Args:
        lab: The server.
        seconds: After which it ends, with what was seen until then.
        progress: Told each step in a few words.
    """
    began, budget = monotonic(), Budget(seconds)
    try:
        async with lab:
            return await checked(Case(lab, budget, progress), began)
    except HubError as error:
        where = "through the hub" if lab.behind_hub else "where it runs"
        return Result(
            id=lab.subject.id,
            version=lab.subject.version,
            verdict=Verdict.INCONCLUSIVE,
            safe_to_share=None,
            reason=f"It could not be checked {where}: {error.message} {error.hint}".strip(),
            seconds=round(monotonic() - began, 1),
        )
