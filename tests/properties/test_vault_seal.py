"""Whatever is changed about a sealed credential, it does not open."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.secret import Secret
from mcphub.vault.keys import Key
from mcphub.vault.seal import CredentialUnreadable, Place, seal, unseal

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
places = st.builds(Place, texts, texts, texts, texts, st.integers(min_value=0, max_value=2**62))
keys = st.builds(Key, texts, st.binary(min_size=32, max_size=32))


@given(keys, places, texts)
def test_a_sealed_value_opens_where_it_belongs(key: Key, place: Place, value: str) -> None:
    nonce, sealed = seal(key, place, Secret(value))
    assert unseal(key, place, nonce, sealed).reveal() == value


@given(keys, places, texts, st.data())
def test_any_flipped_bit_fails(key: Key, place: Place, value: str, data: st.DataObject) -> None:
    nonce, sealed = seal(key, place, Secret(value))
    whole = bytearray(nonce + sealed)
    bit = data.draw(st.integers(min_value=0, max_value=len(whole) * 8 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CredentialUnreadable):
        unseal(key, place, bytes(whole[:12]), bytes(whole[12:]))


@given(keys, places, places, texts)
def test_any_other_place_fails(key: Key, place: Place, other: Place, value: str) -> None:
    nonce, sealed = seal(key, place, Secret(value))
    for field in ("install_id", "user_id", "server", "slot", "revision"):
        moved = replace(place, **{field: getattr(other, field)})
        if moved != place:
            with pytest.raises(CredentialUnreadable):
                unseal(key, moved, nonce, sealed)


@given(keys, places, texts)
def test_a_border_between_two_fields_cannot_move(key: Key, place: Place, value: str) -> None:
    nonce, sealed = seal(key, replace(place, user_id="ab", server="c"), Secret(value))
    with pytest.raises(CredentialUnreadable):
        unseal(key, replace(place, user_id="a", server="bc"), nonce, sealed)


@given(keys, keys, places, texts)
def test_another_key_or_another_name_of_the_key_fails(
    key: Key, other: Key, place: Place, value: str
) -> None:
    nonce, sealed = seal(key, place, Secret(value))
    for wrong in (replace(key, id=key.id + "x"), replace(key, material=other.material)):
        if wrong != key:
            with pytest.raises(CredentialUnreadable):
                unseal(wrong, place, nonce, sealed)


@given(keys, places, texts, st.binary(max_size=40), st.binary(max_size=40))
def test_any_other_bytes_fail(
    key: Key, place: Place, value: str, nonce: bytes, sealed: bytes
) -> None:
    with pytest.raises(CredentialUnreadable):
        unseal(key, place, nonce, sealed)


@given(keys, places, texts)
def test_sealing_twice_gives_different_bytes(key: Key, place: Place, value: str) -> None:
    assert seal(key, place, Secret(value)) != seal(key, place, Secret(value))
