"""What is known of how a package may be started: files in a directory of the hub, by exact version.

They hold nothing of a user. Written by `modes`, once per package; reading them needs no hub.
"""

import contextlib
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import mcphub

_FORMAT: Final = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one package.

    Attributes:
        modules: What a zygote may import, or a warm worker load, in order.
        read: Variables of the environment that these imports read.
        unfit: Top-level module -> why it may not.
        why_plain: Why every instance is started plainly; empty when that need not be.
        later: Modules of a Python server that only its instances may import, in order.
    """

    modules: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    unfit: Mapping[str, str] | None = None
    why_plain: str = ""
    later: tuple[str, ...] = ()


class Findings:
    """The files that hold what was found. Reading needs no hub.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, argv: Sequence[str]) -> Finding | None:
        """Return what is known of a program; None when nothing is."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(self._place(argv).read_bytes())
            return Finding(
                tuple(values["modules"]),
                tuple(values["read"]),
                dict(values["unfit"] or {}),
                str(values["why_plain"]),
                tuple(values["later"]),
            )
        return None

    def write(self, argv: Sequence[str], finding: Finding) -> None:
        """Keep a finding."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self._place(argv)
        draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
        draft.write_text(json.dumps(asdict(finding), indent=1) + "\n")
        draft.replace(place)

    def _place(self, argv: Sequence[str]) -> Path:
        """Return the file of a program: package directories are named by exact version and hash."""
        exact = json.dumps([_FORMAT, mcphub.__version__, *argv[:2]])
        return self._folder / f"{hashlib.sha256(exact.encode()).hexdigest()[:32]}.json"
