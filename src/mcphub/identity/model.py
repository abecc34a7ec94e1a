"""Values of identity: users, memberships, API keys; and what they may be called.

Not here: the database (`identity.directory`) or authentication (`identity.snapshot`).
"""

import difflib
import hashlib
import math
import re
import secrets
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mcphub.errors import InvalidInput
from mcphub.policy.model import EVERYONE, Role
from mcphub.secret import Secret

_KEY_START: Final = "mcphub_"
KEY_LENGTH: Final = len(_KEY_START) + 43
_SHOWN: Final = 12
_GROUP = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_USER_ID = re.compile(r"u_[0-9a-z]{26}")
_LABEL_LENGTH: Final = 128
# What one language writes together, and no letter of one of them is taken for one of another.
_MAY_MIX = frozenset({"Latin", "Cjk", "Hiragana", "Katakana", "Hangul", "Bopomofo", "Ideographic"})
# Control, format (bidirectional marks, zero-width), surrogate, private, unassigned, line breaks.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class User:
    """A person or a program that has an identity of its own at the hub.

    Attributes:
        id: Opaque, `u_…`, never reused.
        name: Display name, unique.
        number: Unique integer from 16, never reused; gives the user's kernel uid.
        role: What the user may do to the hub.
        disabled: Nothing authenticates as the user while this is so.
        created_at: Epoch seconds, UTC.
        remove_at: When a disabled user is removed for good; None for never.
    """

    id: str
    name: str
    number: int
    role: Role
    disabled: bool
    created_at: float
    remove_at: float | None = None


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much of everything belongs to a user."""

    keys: int
    memberships: int
    credentials: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A user's membership of a group; it counts until `expires_at` (epoch seconds), if that is set."""

    user_id: str
    group: str
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of an API key; the key itself is nowhere.

    Attributes:
        id: Opaque, `k_…`.
        user_id: Whose key it is.
        prefix: The key's first 12 characters, to recognise it.
        label: What its owner calls it.
        created_at, expires_at, revoked_at, last_used_at: Epoch seconds, UTC, or None.
    """

    id: str
    user_id: str
    prefix: str
    label: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at its creation, the only moment at which its value exists outside of the client."""

    key: Secret
    info: KeyInfo


@dataclass(frozen=True, slots=True)
class Person:
    """Who is to be there.

    Attributes:
        groups: Beside `everyone`.
        role: None for whatever role the user has, an ordinary user when new.
    """

    name: str
    groups: tuple[str, ...] = ()
    role: Role | None = None


@dataclass(slots=True)
class Arrival:
    """What became of a person.

    Attributes:
        id: Of the user.
        is_new: Whether there was no such user before.
        joined: Groups that the user was not in.
        key: The key that was made, if one was.
    """

    id: str
    name: str
    is_new: bool
    joined: tuple[str, ...]
    key: NewKey | None = None


def new_key() -> Secret:
    """Return a new API key: `mcphub_` and 256 random bits in base64url (rule R3)."""
    return Secret(_KEY_START + secrets.token_urlsafe(32))


def key_digest(key: str) -> bytes:
    """Return what is stored of a key: its SHA-256.

    A fast hash is right here. Slow, salted hashes protect passwords, which people choose from few:
    they make each guess dear. A key is 256 uniformly random bits: no list holds it, guessing it is
    as hopeless as breaking the hash, and a salt would only prevent the one dictionary lookup by
    which a key is found.

    Raises:
        UnicodeEncodeError: The text holds a lone surrogate; it is no key.
    """
    return hashlib.sha256(key.encode()).digest()


def shown_prefix(key: Secret) -> str:
    """Return the part of a key that may be shown: 5 of its 43 random characters."""
    return key.reveal()[:_SHOWN]


def checked_user_name(name: str) -> str:
    """Return the name in Unicode's composed form.

    Raises:
        InvalidInput: It is empty, too long, has invisible characters or looks like a user's id; or
            letters of several scripts, or other forms of plain characters, make it look like another.
    """
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= 64 or name != name.strip() or is_invisible(name):
        raise InvalidInput(
            "A user's name has 1 to 64 visible characters and no space at its ends.",
            hint="Choose a name such as: anna",
        )
    if _USER_ID.fullmatch(name):
        raise InvalidInput("A user's name must not look like a user's id.", hint="Choose another.")
    if unicodedata.normalize("NFKC", name) != name:
        raise InvalidInput(
            "A user's name has no special forms of characters, such as wide or mathematical ones.",
            hint="Write it with ordinary letters.",
        )
    if len(mixed := _scripts(name)) > 1 and not mixed <= _MAY_MIX:
        raise InvalidInput(
            f"A user's name has letters of one script; this one has {' and '.join(sorted(mixed))}.",
            hint="Such names look like others. Type the name anew, with one keyboard.",
        )
    return name


def checked_group_name(name: str) -> str:
    """Return the name of an ordinary group.

    Raises:
        InvalidInput: It is not a plain name, or is `everyone`.
    """
    if not _GROUP.fullmatch(name):
        raise InvalidInput(
            "A group's name has 1 to 63 of the characters a-z, 0-9 and '-', and does not start with '-'.",
            hint="Choose a name such as: data-team",
        )
    if name == EVERYONE:
        raise InvalidInput(
            f"The group '{EVERYONE}' is built in: every user is in it, always.",
            hint="Choose another group.",
        )
    return name


def checked_label(label: str) -> str:
    """Return a key's label.

    Raises:
        InvalidInput: It is too long or has invisible characters.
    """
    label = label.strip()
    if len(label) > _LABEL_LENGTH or is_invisible(label):
        raise InvalidInput(
            f"A key's label has at most {_LABEL_LENGTH} visible characters.",
            hint="Choose a label such as: laptop",
        )
    return label


def checked_expiry(expires_at: float | None, now: float) -> float | None:
    """Return the time of an expiry.

    Raises:
        InvalidInput: It is not in the future.
    """
    if expires_at is not None and not (math.isfinite(expires_at) and expires_at > now):
        raise InvalidInput(
            "The time of expiry is not in the future.", hint="Give a later time, or none."
        )
    return expires_at


def did_you_mean(wanted: str, known: Iterable[str]) -> str:
    """Return a sentence that names the nearest known name, or an empty text."""
    near = difflib.get_close_matches(wanted, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else ""


def _scripts(text: str) -> set[str]:
    """Return the scripts of the letters, by the first word of their Unicode names (UTS #39, 5.1)."""
    letters = (char for char in text if unicodedata.category(char).startswith("L"))
    return {unicodedata.name(char, "?").split()[0].split("-")[0].capitalize() for char in letters}


def is_invisible(text: str) -> bool:
    """Return whether the text has characters that nobody sees, among them what PostgreSQL refuses."""
    return any(unicodedata.category(character) in _INVISIBLE for character in text)
