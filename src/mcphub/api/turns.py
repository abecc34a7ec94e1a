"""How often a user may change something at the hub.

A change is a write to the disk, an event that the audit log keeps for good, and news for everything
that runs. People need few; a program in a loop gets no more of the hub than they.
"""

from typing import Final

from mcphub.errors import LimitExceeded
from mcphub.ids import Clock

BURST: Final = 60
"""Changes that a user may make at once."""
PER_S: Final = 1.0
"""Changes each second that a user gets back."""


class Turns:
    """A token bucket for each user.

    Args:
        clock: Seconds; one that goes backwards gives nothing back meanwhile.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, user_id: str) -> None:
        """Count one change.

        Raises:
            LimitExceeded: The user has made too many lately.
        """
        now = self._clock()
        left, at = self._left.get(user_id, (float(BURST), now))
        left = min(float(BURST), left + max(0.0, now - at) * PER_S)
        if left < 1:
            self._left[user_id] = left, now
            raise LimitExceeded(
                "You have changed too much in a short time.",
                hint=f"Wait: {PER_S:g} change a second is taken, {BURST} after a quiet minute.",
                retry_after_s=(1 - left) / PER_S,
            )
        self._left[user_id] = left - 1, now
