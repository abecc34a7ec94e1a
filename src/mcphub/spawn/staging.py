"""Mounts that a root hub prepares in the private mount namespace of one start.

Two reasons. The user's kernel uid may not be able to reach what it must see (a home or a package
below a 0700 directory), so root binds it to a place that is open. And inotify and file locks on
shared read-only files cross every namespace: a read-only overlay per instance gives each one its
own inodes. Nothing here outlives the instance: the namespace ends with it.

A single file is bound over an empty file of the hub (a slot), because mount(8) makes directories only.
Its directory is on the way there, in a place that only root can enter, and never shown.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mcphub.errors import InvalidInput, Unavailable
from mcphub.spawn.bubblewrap import Mounts

# Existing directories to cover with a tmpfs; the first that no source needs is taken.
_PLACES: Final = tuple(map(Path, ("/mnt", "/media", "/srv", "/opt", "/boot")))
_SLOTS: Final = 64
_ENV: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Staging:
    """Plans the mounts.

    Attributes:
        overlay: Whether read-only overlays work on this machine.
        slots: Directory of empty files, made by `best`.
    """

    overlay: bool
    slots: Path

    @classmethod
    def best(cls, slots: Path, *, overlay: bool = True) -> Self:
        """Return the staging that works here, found by mounting an overlay of `/usr`; makes the slots.

        Args:
            slots: Where to make them.
            overlay: Try overlays at all.
        """
        slots.mkdir(parents=True, exist_ok=True)
        slots.chmod(0o755)
        for index in range(_SLOTS):
            (slots / str(index)).touch(0o644)
        if not overlay:
            return cls(False, slots)
        _, table = cls(True, slots).plan(Path("/usr"), Path("/usr"), [])
        argv = ("unshare", "--mount", "--propagation", "private", "--", "mount", "-a", "-T")
        with tempfile.NamedTemporaryFile(dir=slots) as file:
            file.write(table.encode())
            file.flush()
            tried = subprocess.run(
                [*argv, file.name], env=_ENV, capture_output=True, check=False, timeout=20
            )
        return cls(tried.returncode == 0, slots)

    def plan(
        self,
        etc: Path,
        home: Path,
        places: Sequence[Path],
        own: Sequence[tuple[Path, Path]] = (),
    ) -> tuple[Mounts, str]:
        """Return where bubblewrap finds things, and the table for `mount -a` that puts them there.

        Raises:
            InvalidInput: More single files than there are slots.
            Unavailable: Every directory that could be covered is in use.
        """
        base = _free_place([etc, *places, home, self.slots, *(copy for copy, _ in own)])
        lines = [f"mcphub {base} tmpfs size=1m,mode=0755 0 0"]
        if self.overlay:
            lines.append(f"none {base}/none tmpfs size=4k,X-mount.mkdir 0 0")
        files = [place for place in places if not place.is_dir()]
        if len(files) > _SLOTS:
            raise InvalidInput(
                "The server needs to read too many single files.",
                hint=f"Name their directory in `sandbox.readable`; at most {_SLOTS} files are shown.",
            )
        if files:
            lines.append(f"{_escape(self.slots)} {base}/f none bind,ro,X-mount.mkdir 0 0")
            lines.append(f"none {base}/h tmpfs size=64k,mode=0700,X-mount.mkdir 0 0")
        shown: list[str] = []
        for index, source in enumerate([Path("/usr"), etc, *places]):
            if source in files:
                shown.append(self._file(lines, base, index, source, files.index(source)))
            else:
                shown.append(self._directory(lines, base, index, source))
        lines.append(f"{_escape(home)} {base}/home none bind,X-mount.mkdir 0 0")
        inside = tuple(zip(shown[2:], map(str, places), strict=True))
        copied: list[tuple[str, str]] = []
        for index, (copy, place) in enumerate(own):
            lines.append(f"{_escape(copy)} {base}/w{index} none bind,X-mount.mkdir 0 0")
            copied.append((f"{base}/w{index}", str(place)))
        mounts = Mounts(shown[0], shown[1], f"{base}/home", inside, tuple(copied))
        return mounts, "\n".join([*lines, ""])

    def _directory(self, lines: list[str], base: Path, index: int, source: Path) -> str:
        target = f"{base}/r{index}"
        lines.append(f"{_escape(source)} {target} none rbind,ro,X-mount.mkdir 0 0")
        if not self.overlay:
            return target
        layers = f"lowerdir={target}:{base}/none"
        lines.append(f"overlay {base}/o{index} overlay ro,{layers},X-mount.mkdir 0 0")
        return f"{base}/o{index}"

    def _file(self, lines: list[str], base: Path, index: int, source: Path, slot: int) -> str:
        if self.overlay and source.is_file():  # a socket or device would be another one there
            source = source.resolve()  # an overlay needs the directory that really holds it
            hidden = f"{base}/h/r{index}"
            lines.append(f"{_escape(source.parent)} {hidden} none bind,ro,X-mount.mkdir 0 0")
            layers = f"lowerdir={hidden}:{base}/none"
            hidden = f"{base}/h/o{index}"
            lines.append(f"overlay {hidden} overlay ro,{layers},X-mount.mkdir 0 0")
            source = Path(hidden, source.name)
        lines.append(f"{_escape(source)} {base}/f/{slot} none bind,ro 0 0")
        return f"{base}/f/{slot}"


def _free_place(needed: Sequence[Path]) -> Path:
    """Return a directory that hides nothing of `needed`, also where links on the way lead."""
    sources = {text + "/" for place in needed for text in (str(place), os.path.realpath(place))}
    for place in _PLACES:
        if place.is_dir() and not any(source.startswith(f"{place}/") for source in sources):
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
