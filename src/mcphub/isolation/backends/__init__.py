"""Private stand-ins for the databases that a launch line names, started on loopback for one check."""

from dataclasses import dataclass


@dataclass(slots=True)
class Backend:
    """One stand-in.

    Attributes:
        kind: What it is, such as `PostgreSQL`.
        named: `host:port` as the launch line names it.
        real: `host:port` where the stand-in is.
        credential: Label of the credential that the launch line gives for it; or empty.
        reached: The subject connected to it.
    """

    kind: str
    named: str
    real: str
    credential: str = ""
    reached: bool = False
