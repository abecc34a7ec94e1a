"""A clock for tests."""


class MovableClock:
    """Passes for `mcphub.ids.Clock` and goes only when a test moves `now` (epoch seconds)."""

    def __init__(self, now: float = 1_700_000_000.25) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return `now`."""
        return self.now
