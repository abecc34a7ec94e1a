"""Mounts that a root hub prepares in the private mount namespace of one start.

Two reasons. The user's kernel uid may not be able to reach what it must see (a home or a package
below a 0700 directory), so root binds it to a place that is open. And inotify and file locks on
shared read-only files cross every namespace: a read-only overlay per instance gives each one its
own inodes. Nothing here outlives the instance: the namespace ends with it.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mcphub.errors import Unavailable
from mcphub.spawn.bubblewrap import Mounts

# Existing directories to cover with a tmpfs; the first that no source needs is taken.
_PLACES: Final = tuple(map(Path, ("/mnt", "/media", "/srv", "/opt", "/boot")))
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Staging:
    """Plans the mounts.

    Attributes:
        overlay: Whether read-only overlays work on this machine.
    """

    overlay: bool

    @classmethod
    def best(cls) -> Self:
        """Return the staging that works here, found by mounting an overlay of `/usr`."""
        _, table = cls(overlay=True).plan(Path("/usr"), Path("/usr"), [])
        argv = ("unshare", "--mount", "--propagation", "private", "--", "mount", "-a", "-T")
        with tempfile.NamedTemporaryFile() as file:
            file.write(table.encode())
            file.flush()
            tried = subprocess.run(
                [*argv, file.name], env=_ENV, capture_output=True, check=False, timeout=20
            )
        return cls(overlay=tried.returncode == 0)

    def plan(self, etc: Path, home: Path, places: Sequence[Path]) -> tuple[Mounts, str]:
        """Return where bubblewrap finds things, and the table for `mount -a` that puts them there.

        Raises:
            Unavailable: Every directory that could be covered is in use.
        """
        sources = [Path("/usr"), etc, *places]
        base = _free_place([*sources, home])
        lines = [f"mcphub {base} tmpfs size=1m,mode=0755 0 0"]
        shown: list[str] = []
        for index, source in enumerate(sources):
            if source.is_file():
                # A file needs a file to be bound on; it is shown as it is, its place must be open.
                shown.append(str(source))
                continue
            target = f"{base}/r{index}"
            lines.append(f"{_escape(source)} {target} none rbind,ro,X-mount.mkdir 0 0")
            if self.overlay:
                layers = f"lowerdir={target}:{base}/none"
                if index == 0:
                    lines.append(f"none {base}/none tmpfs size=4k,X-mount.mkdir 0 0")
                target = f"{base}/o{index}"
                lines.append(f"overlay {target} overlay ro,{layers},X-mount.mkdir 0 0")
            shown.append(target)
        lines.append(f"{_escape(home)} {base}/home none bind,X-mount.mkdir 0 0")
        inside = tuple(zip(shown[2:], map(str, places), strict=True))
        return Mounts(shown[0], shown[1], f"{base}/home", inside), "\n".join([*lines, ""])


def _free_place(sources: Sequence[Path]) -> Path:
    for place in _PLACES:
        if place.is_dir() and not any(source.is_relative_to(place) for source in sources):
            return place
    raise Unavailable(
        "No directory is free for the mounts of an instance.",
        hint="Make an empty directory /srv on the machine.",
    )


def _escape(path: Path) -> str:
    """Return a path as fstab(5) wants it."""
    text = os.fspath(path)
    if "\n" in text:
        raise Unavailable("A directory of the hub has a line break in its name.")
    for char in "\\ \t#":
        text = text.replace(char, f"\\{ord(char):03o}")
    return text
