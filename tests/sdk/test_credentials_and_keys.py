"""The hub's half and the SDK's half of the user context understand each other, and nobody else."""

import json
import os
import stat

import jwt
import pytest

from mcphub.secret import Secret
from mcphub.vault.keys import FileKeys, Key, KeyRing
from mcphub.vault.signing import ContextSigner, encrypt
from mcphub_sdk import AssertionRefused, DecryptionKey, Verifier, new_decryption_key
from mcphub_sdk.canonical import request_digest
from mcphub_sdk.credentials import CredentialsUnreadable
from mcphub_sdk.keys import FixedKeys, keys_of

pytestmark = pytest.mark.anyio
PARAMS = {"name": "recall", "arguments": {}}


def signer_at(path):
    return ContextSigner(KeyRing.load(FileKeys(path)), Key("s", b"s" * 32), "install-1")


def claims(**changed):
    return {
        "iss": "urn:hub",
        "sub": "p_1",
        "aud": "urn:server",
        "iat": 1000,
        "exp": 1060,
        "jti": os.urandom(8).hex(),
        "request": {"method": "tools/call", "digest": request_digest("tools/call", PARAMS)},
        **changed,
    }


def verifier(jwks):
    return Verifier("urn:hub", "urn:server", FixedKeys(jwks), clock=lambda: 1001.0)


async def test_what_the_hub_signs_the_sdk_verifies(tmp_path):
    signer = signer_at(tmp_path / "keys" / "context")
    found = await verifier(signer.jwks()).verify(signer.sign(claims()), "tools/call", PARAMS)
    assert (found.issuer, found.subject) == ("urn:hub", "p_1")


async def test_two_hubs_have_different_keys_and_neither_accepts_the_other(tmp_path):
    ours, theirs = signer_at(tmp_path / "a"), signer_at(tmp_path / "b")
    with pytest.raises(AssertionRefused, match="key"):
        await verifier(ours.jwks()).verify(theirs.sign(claims()), "tools/call", PARAMS)
    relabelled = {"keys": [{**ours.jwks()["keys"][0], "kid": theirs.jwks()["keys"][0]["kid"]}]}
    with pytest.raises(AssertionRefused, match="signature"):
        await verifier(relabelled).verify(theirs.sign(claims()), "tools/call", PARAMS)


async def test_after_a_rotation_both_keys_verify_and_after_retirement_one(tmp_path):
    keys = FileKeys(tmp_path / "keys")
    ring = KeyRing.load(keys)
    signer = ContextSigner(ring, Key("s", b"s" * 32), "install-1")
    old_id, old = ring.sealing.id, signer.sign(claims())
    keys.rotate()
    assert signer.refresh() and not signer.refresh()
    new = signer.sign(claims())
    for token in (old, new):
        await verifier(signer.jwks()).verify(token, "tools/call", PARAMS)
    assert jwt.get_unverified_header(new)["kid"] != old_id
    keys.retire(old_id)
    assert signer.refresh()
    with pytest.raises(AssertionRefused, match="key"):
        await verifier(signer.jwks()).verify(signer_at(tmp_path / "x").sign(claims()), "", PARAMS)


def test_the_key_file_is_private_and_nothing_private_is_published_or_shown(tmp_path):
    path = tmp_path / "keys"
    signer = signer_at(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    private = path.read_text().split(":")[-1].strip()
    assert all(
        set(key) == {"kty", "crv", "use", "alg", "kid", "x"} for key in signer.jwks()["keys"]
    )
    assert private not in json.dumps(signer.jwks()) + repr(signer)


def test_a_subject_is_stable_and_differs_by_user_server_and_hub(tmp_path):
    signer = signer_at(tmp_path / "a")
    subject = signer.subject("u_1", "urn:one")
    assert subject == signer_at(tmp_path / "another key").subject("u_1", "urn:one")
    others = [signer.subject("u_2", "urn:one"), signer.subject("u_1", "urn:two")]
    elsewhere = ContextSigner(
        KeyRing.load(FileKeys(tmp_path / "a")), Key("s", b"t" * 32), "install-1"
    )
    assert len({subject, *others, elsewhere.subject("u_1", "urn:one")}) == 4
    assert "u_1" not in subject


def test_credentials_open_with_the_servers_key_only():
    key, other = DecryptionKey(new_decryption_key()), DecryptionKey(new_decryption_key())
    sealed = encrypt({"GITHUB_TOKEN": Secret("canary")}, key.public_jwk)
    assert key.open(sealed) == {"GITHUB_TOKEN": "canary"}
    assert "canary" not in sealed + repr(key)
    with pytest.raises(CredentialsUnreadable):
        other.open(sealed)


@pytest.mark.parametrize("part", range(5))
def test_no_part_of_encrypted_credentials_can_be_changed(part):
    key = DecryptionKey(new_decryption_key())
    parts = encrypt({"T": Secret("value")}, key.public_jwk).split(".")
    flipped = "B" if parts[part][:1] != "B" else "C"
    parts[part] = flipped + parts[part][1:]
    with pytest.raises(CredentialsUnreadable):
        key.open(".".join(parts))


def test_only_public_ed25519_signature_keys_count(tmp_path):
    good = signer_at(tmp_path / "a").jwks()["keys"][0]
    bad = [
        {**good, "kid": "private", "d": "x"},
        {**good, "kid": "enc", "use": "enc"},
        {**good, "kid": "curve", "crv": "Ed448"},
        {"kty": "oct", "kid": "symmetric", "k": "AAAA"},
        {**good, "kid": 7},
        "no key",
    ]
    assert set(keys_of({"keys": [*bad, good]})) == {good["kid"]}


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_a_token_of_another_algorithm_is_refused(tmp_path, algorithm):
    # the classic confusion: HS256 with the published key as the secret
    jwks = signer_at(tmp_path / "a").jwks()
    key = jwks["keys"][0]
    secret = key["x"] if algorithm == "HS256" else None
    headers = {"typ": "mcphub-user-context+jwt", "kid": key["kid"]}
    token = jwt.encode(claims(), secret, algorithm, headers=headers)
    with pytest.raises(AssertionRefused, match="type"):
        await verifier(jwks).verify(token, "tools/call", PARAMS)
