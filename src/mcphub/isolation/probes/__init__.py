"""The probes: each looks for one way in which a server mixes up its users.

`Probe` is a seam: `applies` says whether there is anything to look for, `run` looks. A probe reads
the runs of the case, may start the subject again, and returns findings; it never raises for what a
server does wrong.
"""

from typing import Protocol

from mcphub.isolation.case import Case
from mcphub.isolation.model import Finding


class Probe(Protocol):
    """One way to look for leaks.

    Attributes:
        name: For the coverage.
    """

    name: str

    def applies(self, case: Case) -> bool:
        """Tell whether there is anything to look for."""
        ...

    async def run(self, case: Case) -> list[Finding]:
        """Look."""
        ...
