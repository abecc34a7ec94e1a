"""From a key to a principal, without a database."""

import pytest

from mcphub.errors import InvalidInput
from mcphub.identity.model import (
    KEY_LENGTH,
    KeyInfo,
    Membership,
    User,
    checked_group_name,
    checked_user_name,
    did_you_mean,
    key_digest,
    new_key,
    shown_prefix,
)
from mcphub.identity.snapshot import People, PrincipalSnapshot
from mcphub.policy.model import Role
from mcphub.secret import Secret

ANNA = User("u_a", "anna", 16, Role.ADMIN, disabled=False, created_at=0)
BEN = User("u_b", "ben", 17, Role.USER, disabled=False, created_at=0)
ANNAS, BENS = Secret("mcphub_" + "a" * 43), Secret("mcphub_" + "b" * 43)


def key(owner: User, **more: float) -> KeyInfo:
    times = {"expires_at": None, "revoked_at": None, "last_used_at": None} | more
    return KeyInfo(f"k_{owner.name}", owner.id, "mcphub_abcde", "", 0.0, **times)


def snapshot(
    *memberships: Membership,
    users: tuple[User, ...] = (ANNA, BEN),
    annas: KeyInfo | None = None,
) -> PrincipalSnapshot:
    keys = [(ANNAS, annas or key(ANNA)), (BENS, key(BEN))]
    hashed = [(key_digest(secret.reveal()), info) for secret, info in keys]
    made = PrincipalSnapshot()
    made.take(People([user.id for user in users], users, memberships, hashed))
    return made


def test_each_key_gives_its_own_user() -> None:
    made = snapshot(Membership("u_a", "data", None))
    anna = made.authenticate(ANNAS.reveal(), 10)
    ben = made.authenticate(BENS.reveal(), 10)
    assert anna is not None
    assert ben is not None
    assert (anna.user_id, anna.number, anna.role, anna.key_id) == ("u_a", 16, Role.ADMIN, "k_anna")
    assert anna.groups == {"everyone", "data"}
    assert (ben.user_id, ben.user_name, ben.groups) == ("u_b", "ben", {"everyone"})


@pytest.mark.parametrize(
    "bearer",
    [
        "",
        "mcphub_",
        "mcphub_" + "a" * 42,
        "mcphub_" + "a" * 44,
        "mcphub_" + "A" * 43,
        "mcphub_" + "a" * 42 + "\ud800",
        "\x00" * KEY_LENGTH,
        "é" * KEY_LENGTH,
    ],
)
def test_anything_but_a_key_is_nobody(bearer: str) -> None:
    assert snapshot().authenticate(bearer, 10) is None


def test_the_hash_of_a_key_is_not_a_key() -> None:
    assert snapshot().authenticate(key_digest(ANNAS.reveal()).hex()[:KEY_LENGTH], 10) is None


def test_a_revoked_key_is_nobody() -> None:
    made = snapshot(annas=key(ANNA, revoked_at=5.0))
    assert made.authenticate(ANNAS.reveal(), 1) is None
    assert made.authenticate(BENS.reveal(), 1) is not None


def test_a_disabled_user_is_nobody() -> None:
    disabled = User("u_a", "anna", 16, Role.ADMIN, disabled=True, created_at=0)
    made = snapshot(users=(disabled, BEN))
    assert made.authenticate(ANNAS.reveal(), 1) is None
    assert made.principal_of("u_a", 1) is None
    assert made.authenticate(BENS.reveal(), 1) is not None


def test_a_key_ends_at_its_time_also_when_it_was_just_used() -> None:
    made = snapshot(annas=key(ANNA, expires_at=100.0))
    before = made.authenticate(ANNAS.reveal(), 99.9)
    assert before is not None
    assert before.valid_until == 100.0
    assert made.authenticate(ANNAS.reveal(), 100.0) is None
    assert made.authenticate(ANNAS.reveal(), 50.0) is None  # and stays ended if the clock goes back


def test_a_membership_ends_at_its_time_and_the_principal_is_made_anew() -> None:
    made = snapshot(
        Membership("u_a", "short", 50.0),
        Membership("u_a", "long", 80.0),
        Membership("u_a", "over", 5.0),
        Membership("u_b", "others", 60.0),
    )
    seen = []
    for now in (10.0, 49.9, 50.0, 80.0):
        principal = made.authenticate(ANNAS.reveal(), now)
        assert principal is not None
        seen.append((sorted(principal.groups), principal.valid_until))
    assert seen == [
        (["everyone", "long", "short"], 50.0),
        (["everyone", "long", "short"], 50.0),
        (["everyone", "long"], 80.0),
        (["everyone"], None),
    ]


def test_a_warm_answer_is_the_same_object() -> None:
    made = snapshot()
    assert made.authenticate(ANNAS.reveal(), 1) is made.authenticate(ANNAS.reveal(), 2)


def test_wrong_keys_are_not_remembered() -> None:
    made = snapshot()
    for _ in range(100):
        made.authenticate(new_key().reveal(), 1)
    assert made._principals == {}


def test_keys_differ_and_show_only_their_beginning() -> None:
    made = {new_key().reveal() for _ in range(100)}
    assert len(made) == 100
    assert {len(value) for value in made} == {KEY_LENGTH}
    assert shown_prefix(Secret("mcphub_abcdefghij")) == "mcphub_abcde"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " anna",
        "anna ",
        "a" * 65,
        "an\nna",
        "an\x00na",
        "an\u202ena",
        "an\u200bna",
        "\ud800",
        "u_" + "0" * 26,
    ],
)
def test_a_users_name_is_visible_and_no_id(name: str) -> None:
    with pytest.raises(InvalidInput):
        checked_user_name(name)


def test_a_users_name_may_be_of_any_script_and_is_composed() -> None:
    assert checked_user_name("Zoe\u0308 Ångström 王") == "Zoë Ångström 王"


@pytest.mark.parametrize("name", ["", "-a", "A", "a b", "a" * 64, "a_b", "everyone", "a\n", "ä"])
def test_a_groups_name_is_plain_and_not_the_built_in_one(name: str) -> None:
    with pytest.raises(InvalidInput):
        checked_group_name(name)


def test_a_hint_names_the_nearest() -> None:
    assert did_you_mean("ana", ["anna", "ben"]) == "Did you mean 'anna'?"
    assert did_you_mean("xyz", ["anna", "ben"]) == ""
