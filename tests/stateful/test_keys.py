"""Keys and memberships over any sequence of events: the snapshot against a model that only counts."""

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from mcphub.identity.model import KeyInfo, Membership, User, key_digest, new_key
from mcphub.identity.snapshot import People, PrincipalSnapshot
from mcphub.policy.model import Role

USERS = {n: User(f"u_{n}", f"user {n}", 16 + n, Role.USER, False, 0.0) for n in range(3)}
ends = st.none() | st.integers(min_value=1, max_value=40).map(float)


class Keys(RuleBasedStateMachine):
    """Rows as the database holds them, a snapshot of them, and a clock that only goes forward."""

    made = Bundle("made")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.keys: dict[str, KeyInfo] = {}
        self.memberships: dict[tuple[str, str], float | None] = {}
        self.disabled: set[str] = set()
        self.snapshot = PrincipalSnapshot()
        self.reload(*USERS)

    def reload(self, *concerned: int) -> None:
        """What the hub does when the revision has changed: it takes anew what is of these users."""
        ids = {USERS[number].id for number in concerned}
        self.snapshot.take(
            People(
                ids,
                [replace(u, disabled=u.id in self.disabled) for u in USERS.values() if u.id in ids],
                [
                    Membership(user, group, end)
                    for (user, group), end in self.memberships.items()
                    if user in ids
                ],
                [
                    (key_digest(secret), info)
                    for secret, info in self.keys.items()
                    if info.user_id in ids
                ],
            )
        )

    @rule(target=made, owner=st.sampled_from(sorted(USERS)), lasts=ends)
    def create(self, owner: int, lasts: float | None) -> str:
        secret = new_key().reveal()
        end = None if lasts is None else self.now + lasts
        user = USERS[owner].id
        self.keys[secret] = KeyInfo(f"k_{len(self.keys)}", user, "", "", 0.0, end, None, None)
        self.reload(owner)
        return secret

    @rule(secret=made)
    def revoke(self, secret: str) -> None:
        old = self.keys[secret]
        self.keys[secret] = KeyInfo(
            old.id, old.user_id, "", "", 0.0, old.expires_at, self.now, None
        )
        self.reload(next(number for number, user in USERS.items() if user.id == old.user_id))

    @rule(owner=st.sampled_from(sorted(USERS)), group=st.sampled_from("ab"), lasts=ends)
    def join(self, owner: int, group: str, lasts: float | None) -> None:
        end = None if lasts is None else self.now + lasts
        self.memberships[USERS[owner].id, group] = end
        self.reload(owner)

    @rule(owner=st.sampled_from(sorted(USERS)), group=st.sampled_from("ab"))
    def leave(self, owner: int, group: str) -> None:
        self.memberships.pop((USERS[owner].id, group), None)
        self.reload(owner)

    @rule(owner=st.sampled_from(sorted(USERS)))
    def disable_or_enable(self, owner: int) -> None:
        self.disabled ^= {USERS[owner].id}
        self.reload(owner)

    @rule(seconds=st.integers(min_value=1, max_value=15))
    def wait(self, seconds: int) -> None:
        self.now += seconds  # without a reload: the snapshot must notice ends by itself

    @rule(target=made)
    def nothing(self) -> object:
        return multiple()

    @invariant()
    def every_key_is_exactly_who_it_should_be(self) -> None:
        for secret, info in self.keys.items():
            found = self.snapshot.authenticate(secret, self.now)
            counts = (
                info.revoked_at is None
                and info.user_id not in self.disabled
                and (info.expires_at is None or self.now < info.expires_at)
            )
            assert (found is not None) == counts
            if found is not None:
                assert (found.user_id, found.key_id) == (info.user_id, info.id)
                assert found.groups == {"everyone", *self.groups_of(info.user_id)}
                assert found.valid_until is None or found.valid_until > self.now

    def groups_of(self, user: str) -> set[str]:
        return {
            group
            for (member, group), end in self.memberships.items()
            if member == user and (end is None or self.now < end)
        }


TestKeys = Keys.TestCase
TestKeys.settings = settings(max_examples=60, stateful_step_count=30)
