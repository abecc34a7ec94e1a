"""`PrincipalSnapshot`: who may call, in memory; the only way from a key to a principal.

Pure: made from rows, answers from rows, knows no database and no clock. When the database's revision
changes, the hub takes anew all there is of the users whom it concerns; an answer therefore never
outlives a revocation.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from mcphub.identity.model import KEY_LENGTH, KeyInfo, Membership, User, key_digest
from mcphub.policy.model import EVERYONE, Principal

LOCAL_KEY_ID = "local"
"""Key id of a principal that the administrator's own command line made."""


class People(NamedTuple):
    """All there is of some users.

    Attributes:
        ids: The users; of one who is not in `users` there is nothing.
        keys: Pairs of SHA-256 digest and what is known of the key.
    """

    ids: Collection[str]
    users: Iterable[User]
    memberships: Iterable[Membership]
    keys: Iterable[tuple[bytes, KeyInfo]]


class PrincipalSnapshot:
    """Every user, membership and usable key, as the database had them when they were taken.

    Not for threads. Answers are remembered per key, so there are at most as many as keys; each is
    made anew once its `valid_until` has passed. Should the clock go backwards, what had expired
    stays expired: the safe side.
    """

    __slots__ = ("_digests", "_keys", "_memberships", "_principals", "_users")

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._memberships: dict[str, list[Membership]] = {}
        self._digests: dict[str, list[bytes]] = {}
        self._keys: dict[bytes, KeyInfo] = {}
        self._principals: dict[bytes, Principal] = {}

    def take(self, people: People) -> None:
        """Put what there is of some users now in the place of all that was known of them."""
        for user_id in people.ids:
            self._users.pop(user_id, None)
            self._memberships.pop(user_id, None)
            for digest in self._digests.pop(user_id, ()):
                self._keys.pop(digest, None)
                self._principals.pop(digest, None)
        self._users.update((user.id, user) for user in people.users if not user.disabled)
        for membership in people.memberships:
            self._memberships.setdefault(membership.user_id, []).append(membership)
        for digest, key in people.keys:
            if key.revoked_at is None and key.user_id in self._users:
                self._keys[digest] = key
                self._digests.setdefault(key.user_id, []).append(digest)

    @property
    def users(self) -> Mapping[str, User]:
        """Users who are not disabled, by id."""
        return MappingProxyType(self._users)

    def authenticate(self, bearer: str, now: float) -> Principal | None:
        """Return whose key this is, or None if it is no key that counts at `now` (epoch seconds).

        The lookup goes by the key's hash: what a caller could learn from its timing are bits of a
        hash that no caller can steer.
        """
        if len(bearer) != KEY_LENGTH:
            return None
        try:
            digest = key_digest(bearer)
        except UnicodeEncodeError:
            return None
        return self._current(digest, now)

    def holder_of(self, user_id: str, key_id: str, now: float) -> Principal | None:
        """Return the principal of a user's key by the key's id, or None if that counts no more."""
        for digest in self._digests.get(user_id, ()):
            key = self._keys.get(digest)
            if key is not None and key.id == key_id:
                return self._current(digest, now)
        return None

    def principal_of(self, user_id: str, now: float) -> Principal | None:
        """Return the user's principal for acts of the administrator's command line (key id `local`)."""
        user = self._users.get(user_id)
        return None if user is None else self._principal(user, LOCAL_KEY_ID, None, now)

    def _current(self, digest: bytes, now: float) -> Principal | None:
        known = self._principals.get(digest)
        if known is not None and (known.valid_until is None or now < known.valid_until):
            return known
        return self._build(digest, now)

    def _build(self, digest: bytes, now: float) -> Principal | None:
        key = self._keys.get(digest)
        if key is None:
            return None
        if key.expires_at is not None and now >= key.expires_at:
            del self._keys[digest]
            self._principals.pop(digest, None)
            return None
        principal = self._principal(self._users[key.user_id], key.id, key.expires_at, now)
        self._principals[digest] = principal
        return principal

    def _principal(
        self, user: User, key_id: str, key_expires_at: float | None, now: float
    ) -> Principal:
        current = [
            membership
            for membership in self._memberships.get(user.id, ())
            if membership.expires_at is None or now < membership.expires_at
        ]
        ends = [key_expires_at, *(membership.expires_at for membership in current)]
        return Principal(
            user_id=user.id,
            user_name=user.name,
            number=user.number,
            role=user.role,
            groups=frozenset({EVERYONE, *(membership.group for membership in current)}),
            key_id=key_id,
            valid_until=min((end for end in ends if end is not None), default=None),
        )
