"""Whether one more instance may start: the bounds of `spawn.pool`, in all, for a user, for a group. Pure."""

from collections.abc import Sequence

from mcphub.errors import LimitExceeded, Unavailable
from mcphub.spawn.launching import SHARED
from mcphub.spawn.starts import PoolLimits

Place = tuple[str, frozenset[str]]
"""Owner of an instance that runs or starts, and the groups of the principal that it was started for."""


def admit(
    limits: PoolLimits,
    owner: str,
    groups: frozenset[str],
    running: Sequence[Place],
    starting: Sequence[Place],
) -> None:
    """Let a start pass.

    Those that start count too, wherever they wait: asking for all at once gets no more.

    Args:
        limits: The bounds.
        owner: Whose instance would start.
        groups: Of the principal who asks for it.
        running: One for each instance that has started.
        starting: One for each that starts or waits for its turn.

    Raises:
        Unavailable: The hub runs as many as it may, or as many wait as may.
        LimitExceeded: The user does, or the members of a group do together.
    """
    taken = [*running, *starting]
    if len(taken) >= limits.instances:
        raise Unavailable(
            f"The hub runs {len(taken)} servers already, the most that it may.",
            hint="Try again when idle ones have stopped, or ask an administrator to raise "
            "`limits.instances`.",
            retry_after_s=30,
        )
    if len(starting) >= limits.starts_at_once + limits.starts_waiting:
        raise Unavailable(
            "As many servers wait to be started as may wait.",
            hint="Try again in a few seconds.",
            retry_after_s=5,
        )
    if owner == SHARED:
        return
    own = sum(one == owner for one, _ in taken)
    if own >= limits.instances_per_user:
        raise LimitExceeded(
            f"You run {own} servers already, the most that one user may.",
            hint="Wait until idle ones stop, or ask an administrator to stop some.",
            retry_after_s=30,
        )
    for group in sorted(groups & limits.instances_per_group.keys()):
        theirs = sum(group in members for _, members in taken)
        if theirs >= limits.instances_per_group[group]:
            raise LimitExceeded(
                f"The members of the group '{group}' run {theirs} servers already, the most "
                "that they may together.",
                hint="Wait until idle ones stop, or ask an administrator.",
                retry_after_s=30,
            )
