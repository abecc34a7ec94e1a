"""Programs named by a path: what they need to read, and whether a sandbox shows them.

A program outside of the system directories is seldom alone: a virtual environment has its packages
and, behind links, an interpreter with a standard library somewhere else. `readable_of` finds what
belongs to it; `check` refuses, before anything is started, what the sandbox would not find. Messages
here reach users, so they never hold a path of the host. Not here: packages of registries
(`catalog.packages`), how things are shown (`bubblewrap`, `staging`).
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.spawn import bubblewrap
from mcphub.vault.secret import Secret

_MOST_LINKS: Final = 40
_FIRST_LINE: Final = 512
_ADD: Final = "An administrator adds it to `sandbox.readable` of the server."


def readable_of(program: Path) -> tuple[Path, ...]:
    """Return what an absolute program must be able to read, apart from system directories.

    The program itself; of a virtual environment all of it; of a Python interpreter behind it the
    program files and the standard library, but not the whole prefix, which may be a home.
    """
    found: list[Path] = []
    starts = [program]
    environment = program.parent.parent
    if (environment / "pyvenv.cfg").is_file():
        found.append(environment)
        starts.append(environment / "bin" / "python")  # what its scripts name in their first line
    for start in starts:
        for hop in _hops(start):
            if _is_system(hop):
                continue
            if not any(hop.is_relative_to(place) for place in found):
                found.append(hop)
            if hop.name.startswith("python"):
                found += _libraries(hop.parent.parent / "lib")
    return tuple(dict.fromkeys(found))


def check(argv: Sequence[str | Secret], places: Sequence[Path], home: str) -> None:
    """Refuse a program that the sandbox will not find, where the hub can tell.

    Args:
        argv: Program and arguments.
        places: What is shown besides the system directories, as `bubblewrap.readable_places` gives it.
        home: Where the sandbox shows the home.

    Raises:
        UpstreamFailed: It is not there, not executable, or needs something that is not shown.
    """
    if not all(map(os.path.exists, places)):  # also False for what the hub may not look at
        raise UpstreamFailed(
            "A file or directory that the server needs does not exist on this machine.",
            hint="Install its package again, or correct `sandbox.readable`.",
        )
    program = argv[0] if argv else ""
    if isinstance(program, Secret) or not program.startswith("/"):
        raise UpstreamFailed(
            "The server has no program with an absolute path.",
            hint="Check `command` of the server.",
        )
    path = Path(os.path.normpath(program))
    if path.is_relative_to(home):
        return  # of the tenant: only the sandbox may look
    if not _is_shown(path, places) or not path.is_file() or not os.access(path, os.X_OK):
        raise UpstreamFailed(
            "The server's program does not exist in its sandbox or is not executable.",
            hint="Check `command` of the server; programs outside /usr need `sandbox.readable`.",
        )
    if not _leads_inside(path, places):
        raise UpstreamFailed(
            "The server's program is a link to a place that its sandbox does not show.", hint=_ADD
        )
    interpreter = _interpreter(path)
    if interpreter is not None and not _leads_inside(interpreter, places):
        raise UpstreamFailed(
            "The server's program is a script, and its sandbox does not show the program that its "
            "first line names.",
            hint=_ADD,
        )


def _hops(path: Path) -> Iterator[Path]:
    """Yield a path and, link by link, where it leads."""
    for _ in range(_MOST_LINKS):
        yield path
        if not path.is_symlink():
            return
        path = Path(os.path.normpath(path.parent / path.readlink()))


def _libraries(lib: Path) -> list[Path]:
    """Return the standard library and the shared library of the interpreters with this `lib`."""
    if _is_system(lib):
        return []
    library = [place for place in lib.glob("python3*") if (place / "os.py").is_file()]
    return sorted([*library, *lib.glob("libpython3*.so*")])


def _is_system(path: Path) -> bool:
    return len(path.parts) > 1 and path.parts[1] in {"usr", *bubblewrap.SYSTEM}


def _is_shown(path: Path, places: Sequence[Path]) -> bool:
    return _is_system(path) or any(path.is_relative_to(place) for place in places)


def _leads_inside(path: Path, places: Sequence[Path]) -> bool:
    """Tell whether every link on the way of a program is shown; one shown by itself is no link there."""
    for hop in _hops(path):
        if not _is_shown(hop, places):
            return False
        if hop in places:
            return True
    return True


def _interpreter(path: Path) -> Path | None:
    """Return what the first line of a script names, if it is one and may be read."""
    try:
        with path.open("rb") as file:
            line = file.read(_FIRST_LINE).partition(b"\n")[0]
    except OSError:
        return None
    words = line.removeprefix(b"#!").split()
    if not line.startswith(b"#!") or not words or not words[0].startswith(b"/"):
        return None
    return Path(os.path.normpath(os.fsdecode(words[0])))
