"""Removes what foreign code has made, however deep it is: Python's own ways recurse and would fail."""

import subprocess
from pathlib import Path

from mcphub.spawn.building import OUTER_ENV


def discard(place: Path) -> None:
    """Remove a directory with all that is in it, if it is there. Blocking."""
    subprocess.run(
        ["/bin/rm", "-rf", "--one-file-system", "--", str(place)],
        env=OUTER_ENV,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
