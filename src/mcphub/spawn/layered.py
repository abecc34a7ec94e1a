"""What the spawners on top of the sandboxed one have in common with it."""

from pathlib import Path

from mcphub.spawn.sandboxed import SandboxedSpawner


class Layered:
    """The part of `spawner.Spawner` that says what confines instances: the same below as above.

    Args:
        plain: Makes the sandboxes, and starts whatever the spawner above it does not.
    """

    def __init__(self, plain: SandboxedSpawner) -> None:
        self._plain = plain

    @property
    def level(self) -> int:
        """Sandbox level; that of the plain spawner."""
        return self._plain.level

    @property
    def warning(self) -> str:
        """Sentence that every page shows, or empty."""
        return self._plain.warning

    @property
    def means(self) -> str:
        """What builds the sandboxes of plain starts."""
        return self._plain.means

    def home_inside(self, launch_home: Path) -> str:
        """Return the path at which the instance sees its home."""
        return self._plain.home_inside(launch_home)
