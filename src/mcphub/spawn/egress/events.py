"""What the egress gateway tells the hub about each connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EgressEvent:
    """One decision, or the end of an allowed connection.

    Attributes:
        instance_id: Which instance asked.
        kind: `allowed`, `refused` or `closed`.
        host: Name as the instance used it, or the address it dialled.
        port: Destination port; 53 for a refused name.
        reason: Why refused or how closed, a short stable phrase.
        sent: Bytes from the instance, with `closed`.
        received: Bytes to the instance, with `closed`.
    """

    instance_id: str
    kind: str
    host: str
    port: int
    reason: str = ""
    sent: int = 0
    received: int = 0
