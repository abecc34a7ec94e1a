"""From a launch line to a `Subject`: installs pinned packages, finds programs and what they read."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from mcphub.catalog.launchers import Requirement
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
    search_path: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Subject:
    """Return the subject of a command line such as `npx -y @scope/server` or `python server.py`.

    Raises:
        InvalidInput: The program does not exist, or the launcher's line is not understood.
        UpstreamFailed, Unavailable: The package cannot be installed.
    """
    wanted = packages.requirement(words[0], words[1:])
    if wanted is None:
        return _plain(words, env, url, name, search_path)
    pin, installed = await _installed(packages, wanted, pin, progress)
    return Subject(
        id=name or pin.name,
        version=installed.version,
        argv=(*installed.argv, *wanted.args),
        env=env,
        readable=installed.readable,
        url=url,
        package=pin.name,
        source=_source(installed, pin),
    )


async def _installed(
    packages: PackageStore,
    wanted: Requirement,
    pin: Pin | None,
    progress: Callable[[str], None],
) -> tuple[Pin, Installed]:
    if pin is None:
        progress(f"looking up {wanted.name}")
        pin = await packages.resolve(wanted)
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
    for word in words[1:]:
        path = Path(word).absolute()
        if not word.startswith("-") and path.is_file():
            args.append(str(path))
            readable.append(path if path.parent in _TOO_WIDE else path.parent)
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
    )


def _source(installed: Installed, pin: Pin) -> Path | None:
    """Return the directory with the package's own files."""
    place = installed.readable[0]
    for candidate in (
        place / "node_modules" / pin.name,
        *place.glob(f"venv/lib/python3*/site-packages/{pin.name.replace('-', '_')}"),
    ):
        if candidate.is_dir():
            return candidate
    return None
