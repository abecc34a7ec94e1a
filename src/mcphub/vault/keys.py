"""Where the keys that seal credentials come from, and the ring that they form.

The seam `KeyProvider` has three implementations: a key file (default), a value from the environment
and the output of a command. All speak one format: a line `id:base64` for each key (32 bytes), the
first one seals, all open; empty lines and lines that begin with `#` do not count. No message here
ever repeats a line: it may be a key.
"""

import base64
import binascii
import contextlib
import fcntl
import os
import re
import secrets
import stat
import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mcphub.errors import Conflict, InvalidInput, NotFound, Unavailable

_KEY_BYTES = 32
_MAX_TEXT = 64 * 1024
_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class Key:
    """One AES-256 key and the id by which a sealed credential names it."""

    id: str
    material: bytes = field(repr=False)


class KeysGone(Unavailable):
    """There were keys, and what they have sealed is there; they are not."""

    def __init__(self, owner: str) -> None:
        super().__init__(
            f"The key file of {owner} is gone.",
            hint="An administrator puts it back from a copy. If there is none, `mcphub vault rotate` makes another, and "
            "what was sealed is lost.",
            retry_after_s=60,
        )


class KeyProvider(Protocol):
    """Source of the vault's keys. Both methods may block: they are called outside of the event loop."""

    def keys(self) -> tuple[Key, ...]:
        """Return the keys, the sealing one first, at least one.

        Raises:
            InvalidInput: There are none, or what is there is not usable or not private.
            KeysGone: They are where they were no more.
        """
        ...

    def fingerprint(self) -> object:
        """Return a cheap value that differs once `keys` would answer something else."""
        ...


class FileKeys:
    """Keys in a file that only the hub's account can read; made with one new key at the first start.

    It belongs outside of the database's backups: a copy of the database alone opens nothing.

    Args:
        path: Of the file.
        owner: What the keys belong to, as in "The key file of …".
        make: Whether a file that is not there is made. Not where something is sealed already: with another
            key in its place nobody would miss the file before all that it had sealed is lost.
    """

    def __init__(self, path: Path, owner: str = "the vault", *, make: bool = True) -> None:
        self._path = path
        self._owner = owner
        self._make = make

    def keys(self) -> tuple[Key, ...]:
        """Return the file's keys; make the file if there is none.

        Raises:
            InvalidInput: The file is readable by others, or is no key file.
            KeysGone: There is none, and none is to be made.
        """
        try:
            return self._read()
        except FileNotFoundError:
            if not self._make:
                raise KeysGone(self._owner) from None
            self._first()
            return self._read()

    def fingerprint(self) -> object:
        """Return what changes when the file is replaced."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def rotate(self) -> str:
        """Put a new key first, so that it seals from now on; return its id. `Vault.reseal` comes next."""
        self._first()
        with self._locked():
            new = _new_key()
            self._replace((new, *self._read()))
        return new.id

    def _first(self) -> None:
        """Make the file if there is none."""
        with self._locked():
            if not self._path.exists():
                self._replace((_new_key(),))

    def retire(self, key_id: str) -> None:
        """Remove a key for good. Only after `Vault.key_ids` no longer has it: what it sealed is lost.

        Raises:
            NotFound: There is no such key.
            Conflict: It is the key that seals.
        """
        with self._locked():
            keys = self._read()
            if keys[0].id == key_id:
                raise Conflict("This key is the one in use.", hint="Rotate first.")
            left = tuple(key for key in keys if key.id != key_id)
            if len(left) == len(keys):
                raise NotFound(
                    "There is no key of this id in the key file.",
                    hint="Run: mcphub vault keys",
                )
            self._replace(left)

    def _read(self) -> tuple[Key, ...]:
        with self._path.open(encoding="ascii", errors="replace") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
                raise InvalidInput(
                    f"The key file of {self._owner} can be read by other accounts.",
                    hint="Make it private: chmod 600, and rotate its keys if others may have read it.",
                )
            return parse_keys(file.read(_MAX_TEXT + 1), f"The key file of {self._owner}")

    def _replace(self, keys: tuple[Key, ...]) -> None:
        """Write all or nothing: a crash leaves the old file or the new one. Only while the lock is held.

        What a crash leaves beside it has one name, and goes with the next change: it holds keys that may be
        retired by then.
        """
        new = self._path.with_name(f".{self._path.name}.new")
        new.unlink(missing_ok=True)
        try:
            with open(os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:  # noqa: PTH123
                file.write(f"# Keys of {self._owner}. The first one is used, all count. Secret.\n")
                file.writelines(
                    f"{key.id}:{base64.b64encode(key.material).decode()}\n" for key in keys
                )
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Keep other processes from changing the file meanwhile."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
            os.fsync(directory)
        finally:
            os.close(directory)


class EnvironmentKeys:
    """Keys from one value, such as an environment variable that `settings` has read.

    Spaces, commas and semicolons separate keys too, because variables rarely hold lines.
    """

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "EnvironmentKeys(…)"

    def keys(self) -> tuple[Key, ...]:
        """Return the value's keys.

        Raises:
            InvalidInput: The value is not a list of keys.
        """
        return parse_keys(re.sub(r"[\s,;]+", "\n", self._value), "The vault's key variable")

    def fingerprint(self) -> object:
        """Return a constant: a process's environment does not change."""
        return None


class CommandKeys:
    """Keys that a command prints, for key managers of any kind. Runs without a shell."""

    def __init__(self, argv: Sequence[str], timeout_s: float = 10.0) -> None:
        self._argv = tuple(argv)
        self._timeout_s = timeout_s

    def keys(self) -> tuple[Key, ...]:
        """Run the command and return the keys that it printed.

        Raises:
            InvalidInput: It failed, took too long or printed something else.
        """
        try:
            done = subprocess.run(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                # Not kept: it may repeat a key.
                stderr=subprocess.DEVNULL,
                timeout=self._timeout_s,
                check=True,
            )
        except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
            # The chain is cut: its text holds the output.
            reason = type(error).__name__
            raise InvalidInput(
                f"The command that prints the vault's keys failed ({reason}).",
                hint="Run it by hand as the hub's account; it must print lines of id:base64.",
            ) from None
        return parse_keys(done.stdout.decode("ascii", "replace"), "The output of the key command")

    def fingerprint(self) -> object:
        """Return a constant: asking the command each time would be dear. Restart after a rotation."""
        return None


class KeyRing:
    """The keys in memory: one seals, all open. Follows its provider when that changes."""

    def __init__(self, provider: KeyProvider, keys: tuple[Key, ...], seen: object) -> None:
        self._provider = provider
        self._keys = keys
        self._seen = seen

    @classmethod
    def load(cls, provider: KeyProvider) -> "KeyRing":
        """Read the provider's keys; where they are gone the ring is empty until they are back. Blocks.

        Raises:
            InvalidInput: They cannot be used.
        """
        seen = provider.fingerprint()
        try:
            keys = provider.keys()
        except KeysGone:
            return cls(provider, (), seen)
        # they may have been made just now
        return cls(provider, keys, provider.fingerprint() if seen is None else seen)

    def refresh(self) -> None:
        """Read the keys again if the provider has others by now. Blocks for as long as that takes.

        Raises:
            InvalidInput: They cannot be used any more; the ring keeps what it had.
            KeysGone: They are gone. None are made in their place: those in memory may be the last copy.
        """
        seen = self._provider.fingerprint()
        if seen == self._seen:
            return
        if seen is None:
            raise KeysGone("the hub")
        try:
            self._keys = self._provider.keys()
        except OSError as error:
            raise InvalidInput(f"The hub's keys cannot be read ({error.strerror}).") from None
        self._seen = seen

    @property
    def sealing(self) -> Key:
        """The key that seals, or signs.

        Raises:
            KeysGone: There is none.
        """
        if not self._keys:
            raise KeysGone("the hub")
        return self._keys[0]

    @property
    def all(self) -> tuple[Key, ...]:
        """All keys, the sealing one first."""
        return self._keys

    def opening(self, key_id: str) -> Key | None:
        """Return the key of this id, None if the ring has none."""
        return next((key for key in self._keys if key.id == key_id), None)

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(key.id for key in self._keys)})"


def parse_keys(text: str, source: str) -> tuple[Key, ...]:
    """Return the keys of lines `id:base64`.

    Args:
        text: The lines.
        source: What the lines are, as the subject of a sentence.

    Raises:
        InvalidInput: There is no key, or a line is not one; says which line, not what is in it.
    """
    if len(text) > _MAX_TEXT:
        raise _invalid(source, "is too long")
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()  # noqa: PLW2901
        if not line or line.startswith("#"):
            continue
        key_id, _, encoded = line.partition(":")
        try:
            material = base64.b64decode(encoded.strip(), validate=True)
        except (binascii.Error, ValueError):
            material = b""
        if not _ID.fullmatch(key_id) or len(material) != _KEY_BYTES:
            raise _invalid(source, f"has no key in line {number}")
        if key_id in keys:
            raise _invalid(source, f"repeats a key id in line {number}")
        keys[key_id] = Key(key_id, material)
    if not keys:
        raise _invalid(source, "holds no key")
    return tuple(keys.values())


def _invalid(source: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"{source} {what}.",
        hint="A key is a line id:base64 of 32 random bytes; make one with: openssl rand -base64 32",
    )


def _new_key() -> Key:
    return Key("k" + secrets.token_hex(6), secrets.token_bytes(_KEY_BYTES))
