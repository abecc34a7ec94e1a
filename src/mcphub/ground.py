"""The ground services: store, identity, vault, catalog, audit, without sockets or processes.

What the command line and the hub share. The command line works on them whether or not a hub runs;
`app` builds the hub on them. What needs a file that may be broken, or a look at this machine, is
made when it is first used: an invalid `mcp_settings.json` must not stop the revocation of a key. What
few commands need and takes long to import is imported then, too.
"""

import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mcphub.audit.log import AuditLog
from mcphub.audit.requests import RequestLog
from mcphub.catalog.live import LiveSettings
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.states import ServerStates
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import Conflict, InvalidInput, NotFound
from mcphub.identity.directory import Directory
from mcphub.ids import Clock, system_clock
from mcphub.settings import HubSettings
from mcphub.store.database import Database
from mcphub.store.holding import Hold
from mcphub.vault.keys import CommandKeys, EnvironmentKeys, FileKeys, KeyProvider, KeyRing
from mcphub.vault.vault import Vault, is_empty

if TYPE_CHECKING:
    from mcphub.oauth.keeping import GrantStore
    from mcphub.vault.signing import ContextSigner

_PATH = "/usr/local/bin:/usr/bin:/bin"


class DatabaseFile:
    """The file of a SQLite database, as it was when the database was opened. Nothing for a service.

    Args:
        url: Of the database.

    Raises:
        OSError: The file cannot be looked at.
    """

    _SCHEME = "sqlite://"

    def __init__(self, url: str) -> None:
        own = url.startswith(self._SCHEME)
        self._path = Path(url.removeprefix(self._SCHEME)) if own else None
        self._was = self._now()

    def is_another(self) -> bool:
        """Whether its name leads elsewhere now, or nowhere: what was opened hears of no change any more.

        Raises:
            OSError: The file cannot be looked at.
        """
        return self._now() != self._was

    def _now(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat() if self._path is not None else None
        except FileNotFoundError:
            return None
        return (found.st_dev, found.st_ino) if found is not None else None


@dataclass(frozen=True)
class Ground:
    """Services on one store."""

    settings: HubSettings
    clock: Clock
    db: Database
    db_file: DatabaseFile
    hold: Hold
    directory: Directory
    vault: Vault
    states: ServerStates
    requests: RequestLog
    audit: AuditLog
    install_id: str

    @cached_property
    def live(self) -> LiveSettings:
        """The servers of `mcp_settings.json`.

        Raises:
            SettingsError: The file is not valid.
        """
        return LiveSettings(self.settings.servers_file, self.settings.operator_env)

    @cached_property
    def packages(self) -> PackageStore:
        """The pinned package store. Blocking at first use: it looks for Node.js and uv."""
        from mcphub.spawn.native import SandboxedBuilds  # noqa: PLC0415  start-up time

        toolchain = find_toolchain(self.settings.operator_env.get("PATH", _PATH))
        return PackageStore(
            self.settings.packages,
            toolchain,
            self.settings.operator_env,
            self.clock,
            SandboxedBuilds(self.settings.sandbox.uid_base),
        )

    @cached_property
    def grants(self) -> "GrantStore":
        """The users' authorizations at servers with OAuth."""
        from mcphub.oauth.keeping import GrantStore  # noqa: PLC0415  start-up time

        return GrantStore(
            self.db, self.vault, self.audit, lambda: self.live.current.specs, self.clock
        )

    @cached_property
    def signer(self) -> "ContextSigner":
        """Signs user contexts. Blocking at first use: it reads the keys, or makes them.

        Raises:
            InvalidInput: A key file cannot be used.
        """
        from mcphub.vault.signing import ContextSigner  # noqa: PLC0415  start-up time

        ring = KeyRing.load(context_keys(self.settings))
        subjects = FileKeys(self.settings.subject_key_file, "the users' ids at servers").keys()
        issuer = self.settings.context.issuer or self.settings.listen.public_url.rstrip("/")
        return ContextSigner(ring, subjects[0], self.install_id, issuer)


def take_directory(settings: HubSettings) -> None:
    """Make the hub's directory, or refuse one that other accounts of the machine may change.

    What is in it says what the hub executes (R12).

    Raises:
        InvalidInput: The directory or a file of settings is another account's, or others can write it.
    """
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = os.geteuid()
    found = settings.dir.stat()
    if found.st_uid not in {0, own}:
        raise InvalidInput(
            "The hub's directory belongs to another account of this machine.",
            hint="Run it as that account: sudo -u ACCOUNT mcphub … If the hub is to be yours: stop it, look at "
            f"what is in its directory, and run chown -R {own} on it.",
        )
    mode = found.st_mode
    if mode & 0o022:
        raise InvalidInput(
            "Other accounts of this machine may write into the hub's directory.",
            hint="Look at what is in it, and run chmod 700 on it.",
        )
    for path in (settings.servers_file, settings.config_file):
        if not path.exists():
            continue
        file = path.stat()
        if file.st_uid not in {0, own} or (mode & 0o011 and file.st_mode & 0o022):
            raise InvalidInput(
                f"Other accounts of this machine may change {path.name}.",
                hint=f"Look at what is in it, and run chown {own} and chmod 600 on it.",
            )


def replaceable(directory: Path) -> Path | None:
    """Return the first directory above in which other accounts may put another one in the place; or None.

    Args:
        directory: Absolute; links in it are followed.
    """
    for above in directory.resolve().parents:
        found = above.stat()
        others_write = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in {0, os.geteuid()} or others_write:
            return above
    return None


@contextmanager
def the_only_hub(folder: Path) -> Iterator[Callable[[str], None]]:
    """Hold the directory of sockets for one hub; the kernel lets go of it however the hub ends.

    Yields what is to be told the id of the hub's database, for commands that may be for another one.

    Raises:
        InvalidInput: Another hub has it, also one that is still starting or stopping.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(folder / "hub.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInput(
                "A hub runs in this directory already.", hint="Stop it, or use another --dir."
            ) from None
        os.truncate(held, 0)  # what a hub before said
        yield lambda install_id: _write(held, install_id)
    finally:
        os.close(held)


def _write(file: int, text: str) -> None:
    os.pwrite(file, text.encode(), 0)


def running_on(folder: Path) -> str | None:
    """Return the id of the database of the hub that holds the directory of sockets now.

    "" when that hub has none yet; None when there is no hub.
    """
    try:
        looked_at = os.open(folder / "hub.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(looked_at, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(looked_at, 100, 0).decode()
    finally:
        os.close(looked_at)
    return None


@asynccontextmanager
async def ground(
    settings: HubSettings, clock: Clock = system_clock, *, beside: bool = False, make: bool = True
) -> AsyncIterator[Ground]:
    """Open the store and everything on it; make the vault key on first use.

    Args:
        settings: Of the hub.
        clock: Of everything on it.
        beside: It is opened by a command, beside which a hub may run. Otherwise no hub may use the database.
        make: Whether a database that is missing is made.

    Raises:
        HubError: The database or the key cannot be used, or others may change the settings.
    """
    take_directory(settings)
    hold = Hold(settings.database_url)
    async with (
        nullcontext() if beside else hold,
        database(settings, beside=beside, make=make) as db,
    ):
        keys = key_provider(settings, make=await is_empty(db))
        yield Ground(
            settings=settings,
            clock=clock,
            db=db,
            db_file=DatabaseFile(settings.database_url),
            hold=hold,
            directory=Directory(db, clock),
            vault=Vault(db, KeyRing.load(keys), clock),
            states=ServerStates(db, clock),
            requests=RequestLog(db),
            audit=AuditLog(db, clock),
            install_id=await db.install_id(),
        )


@asynccontextmanager
async def database(settings: HubSettings, *, beside: bool, make: bool) -> AsyncIterator[Database]:
    """Open the database at this version, that of the hub which runs in the directory. Args as `ground`.

    Raises:
        NotFound: It is missing, and not to be made.
        Conflict: It is older, and the hub that uses it still runs; or the hub that runs has another (`beside`).
        HubError: It cannot be used.
    """
    url, hubs = settings.database_url, running_on(settings.run) if beside else None

    async def first() -> None:
        if beside and (hubs is not None or await Hold(url).is_taken()):
            raise Conflict(
                "The database is that of an older MCPHub, and a hub of that version still runs.",
                hint="Stop it first; it is brought to the new version when it starts again.",
            )

    async with AsyncExitStack() as stack:
        try:
            db = await stack.enter_async_context(Database.at(url, make=make and not hubs))
            await db.migrate(first, make=make and not hubs)
        except NotFound:
            if hubs:
                raise _elsewhere() from None
            raise
        if hubs and hubs != await db.install_id():
            raise _elsewhere()
        yield db


def _elsewhere() -> Conflict:
    return Conflict(
        "The hub that runs in this directory uses another database than this command would; nothing was changed.",
        hint="Give the command what the hub was started with (MCPHUB_DATABASE, for example), or start the hub "
        "again if `database` in mcphub.toml has been changed since.",
    )


def context_keys(settings: HubSettings) -> FileKeys:
    """Return where the keys that sign user contexts are."""
    settings.context_key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileKeys(settings.context_key_file, "the user context")


def key_provider(settings: HubSettings, *, make: bool = False) -> KeyProvider:
    """Return where the vault's keys come from.

    Args:
        settings: Of the hub.
        make: Whether a key file that is not there is made.

    Raises:
        InvalidInput: The environment variable that should hold them is not set.
    """
    keys = settings.keys
    if keys.source == "command":
        return CommandKeys(keys.command)
    if keys.source == "environment":
        value = settings.operator_env.get(keys.variable)
        if not value:
            raise InvalidInput(
                f"The vault's keys should be in the environment variable {keys.variable}, which is not set.",
                hint='Set it, or use keys.source = "file".',
            )
        return EnvironmentKeys(value)
    settings.key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileKeys(settings.key_file, make=make)
