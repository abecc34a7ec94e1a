"""From a launch line to a `Subject`: installs pinned packages, finds programs and what they read."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from mcphub.catalog.launchers import Requirement, exact_version
from mcphub.catalog.older_sdk import holds_back_sdk
from mcphub.catalog.packages import Installed, PackageStore
from mcphub.catalog.pins import Pin
from mcphub.errors import InvalidInput
from mcphub.isolation.subject import Subject
from mcphub.spawn.program import readable_of

_TOO_WIDE: Final = frozenset(map(Path, ("/", "/home", "/root", "/etc", "/var", "/tmp", "/usr")))  # noqa: S108


async def from_words(
    words: Sequence[str],
    packages: PackageStore,
    *,
    env: Mapping[str, str],
    url: str = "",
    name: str = "",
    pin: Pin | None = None,
    constraints: tuple[str, ...] = (),
    search_path: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Subject:
    """Return the subject of a command line such as `npx -y @scope/server` or `python server.py`.

    Without a pin the newest package is taken, its dependencies held to `constraints`.

    Raises:
        InvalidInput: The program does not exist, or the launcher's line is not understood.
        UpstreamFailed, Unavailable: The package cannot be installed.
    """
    wanted = packages.requirement(words[0], words[1:])
    if wanted is None:
        return _plain(words, env, url, name, search_path)
    pin, installed = await _installed(packages, wanted, pin, progress, constraints)
    return Subject(
        id=name or pin.name,
        version=installed.version,
        argv=(*installed.argv, *wanted.args),
        env=env,
        readable=installed.readable,
        url=url,
        package=pin.name,
        source=installed.source,
        older_sdk=holds_back_sdk((*pin.constraints, *wanted.extras)),
    )


async def from_requirement(
    wanted: Requirement,
    packages: PackageStore,
    *,
    env: Mapping[str, str],
    url: str,
    name: str,
    inside: str = "",
    notes: tuple[str, ...] = (),
    memory: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Subject:
    """Return the subject of a package that is run by one of its programs, or by a file inside of it.

    Args:
        wanted: The package; its arguments are the server's.
        packages: Where it is installed.
        env: Of the subject.
        url: Of the subject.
        name: Of the subject.
        inside: When the first argument begins with this, it is a file of the installation.
        notes: Of the subject.
        memory: Directory that remembers the pins of exact versions.
        progress: Told what is being done.

    Raises:
        InvalidInput, UpstreamFailed, Unavailable: It cannot be installed.
    """
    pin = remembered(memory, wanted)
    pin, installed = await _installed(packages, wanted, pin, progress)
    _remember(memory, wanted, pin)
    argv = (*installed.argv, *wanted.args)
    if inside and wanted.args and wanted.args[0].startswith(inside):
        script = installed.readable[0] / wanted.args[0]
        argv = (installed.argv[0], str(script), *wanted.args[1:])
    return Subject(
        id=name,
        version=installed.version,
        argv=argv,
        env=env,
        readable=installed.readable,
        url=url,
        package=pin.name,
        source=installed.source,
        older_sdk=holds_back_sdk((*pin.constraints, *wanted.extras)),
        notes=notes,
    )


def _memory_file(memory: Path, wanted: Requirement) -> Path:
    digest = hashlib.sha256(repr(replace(wanted, args=(), bin="")).encode()).hexdigest()
    return memory / f"{digest[:32]}.json"


def remembered(memory: Path | None, wanted: Requirement) -> Pin | None:
    """Return the pin of an exact version that was resolved before."""
    if memory is None or not exact_version(wanted):
        return None
    try:
        return msgspec.json.decode(_memory_file(memory, wanted).read_bytes(), type=Pin)
    except (OSError, msgspec.MsgspecError):
        return None


def _remember(memory: Path | None, wanted: Requirement, pin: Pin) -> None:
    if memory is not None and exact_version(wanted):
        memory.mkdir(parents=True, exist_ok=True)
        _memory_file(memory, wanted).write_bytes(msgspec.json.encode(pin))


async def _installed(
    packages: PackageStore,
    wanted: Requirement,
    pin: Pin | None,
    progress: Callable[[str], None],
    constraints: tuple[str, ...] = (),
) -> tuple[Pin, Installed]:
    if pin is None:
        progress(f"looking up {wanted.name}")
        pin = await packages.resolve(wanted, constraints)
    installed = packages.installed(pin, wanted)
    if installed is None:
        installed = await packages.install(pin, wanted, progress)
    return pin, installed


def _plain(
    words: Sequence[str], env: Mapping[str, str], url: str, name: str, search_path: str
) -> Subject:
    found = shutil.which(words[0], path=search_path)
    if found is None:
        raise InvalidInput(
            f"The program '{words[0][:80]}' is not on this machine.",
            hint="Write `npx …`, `uvx …`, an absolute path, or a name in PATH.",
        )
    program = Path(found).absolute()
    args: list[str] = []
    readable = list(readable_of(program))
    source: Path | None = None
    for word in words[1:]:
        path = Path(word).absolute()
        if not word.startswith("-") and path.is_file():
            args.append(str(path))
            wide = path.parent in _TOO_WIDE
            source = source or (None if wide else path.parent)
            readable.append(path if wide else path.parent)
        else:
            args.append(word)
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]
    return Subject(
        id=name or Path(words[-1] if len(words) > 1 and args != list(words[1:]) else words[0]).name,
        version=f"command-{digest}",
        argv=(str(program), *args),
        env=env,
        readable=tuple(dict.fromkeys(readable)),
        url=url,
        source=source,
    )
