"""Signing of user contexts: the hub's Ed25519 keys, their public set, and pairwise subjects.

The keys live like the vault's, in a file of their own with the same rules: made at the first start,
mode 0600, the first one signs, all are published. So a rotation fails no call: servers fetch the set
again when they meet a key id that they do not know, and what the old key signed stays valid.

A subject is derived from a secret that is never rotated, since servers keep users' data by it. It
differs from audience to audience: two servers cannot find out that they have the same user.

Signing is done with `cryptography` itself: it is one call for Ed25519, many times a second, while the
JOSE library warns of the algorithm's name (RFC 9864 splits `EdDSA`; verifiers know `EdDSA` only).
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwe
from joserfc.jwk import OKPKey

from mcphub.secret import Secret
from mcphub.vault.keys import Key, KeyRing

TYPE: Final = "mcphub-user-context+jwt"
ALGORITHM: Final = "EdDSA"
_SUBJECT: Final = b"mcphub subject 1"
_KNOWN_SUBJECTS: Final = 20_000


class ContextSigner:
    """Signs assertions of one hub. Holds keys in memory; does no I/O except in `refresh`.

    Args:
        ring: The signing keys; 32 random bytes of each are an Ed25519 seed (RFC 8032 §5.1.5).
        subjects: The secret that pairwise subjects are derived from.
        install_id: Of this hub.
        issuer: Who the hub says it is, as in `iss`.
    """

    def __init__(self, ring: KeyRing, subjects: Key, install_id: str, issuer: str = "") -> None:
        self.issuer = issuer or f"urn:mcphub:install:{install_id}"
        self._ring = ring
        self._subjects = subjects
        self._install_id = install_id
        self._keys: dict[str, tuple[str, Ed25519PrivateKey]] = {}
        self._known_subjects: dict[tuple[str, str], str] = {}

    def refresh(self) -> bool:
        """Read the keys again if their file changed; returns whether it did. Blocks for a moment.

        Raises:
            InvalidInput: They cannot be used any more; the ring keeps what it had.
        """
        before = self.revision
        self._ring.refresh()
        return self.revision != before

    @property
    def revision(self) -> str:
        """Changes whenever the public keys do."""
        return ",".join(key.id for key in self._ring.all)

    @property
    def key_id(self) -> str:
        """Id of the key that signs."""
        return self._ring.sealing.id

    def sign(self, claims: Mapping[str, Any], key_id: str = "") -> str:
        """Return these claims as a JWT, with this hub's installation in it (rule R18).

        Args:
            claims: All claims but `install`.
            key_id: A key that the receiver knows; another one signs when it was retired.
        """
        key = self._ring.opening(key_id) or self._ring.sealing
        known = self._keys.get(key.id)
        if known is None:
            header = msgspec.json.encode({"typ": TYPE, "alg": ALGORITHM, "kid": key.id})
            private = Ed25519PrivateKey.from_private_bytes(key.material)
            known = self._keys[key.id] = (_base64url(header), private)
        body = msgspec.json.encode({**claims, "install": self._install_id})
        signed = f"{known[0]}.{_base64url(body)}"
        return f"{signed}.{_base64url(known[1].sign(signed.encode()))}"

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as a JWK set (RFC 7517, RFC 8037)."""
        return {"keys": [_public(key) for key in self._ring.all]}

    def description(self, url: str) -> dict[str, Any]:
        """Return what the hub publishes about its user contexts.

        Args:
            url: Where the description is; the key set is below it.
        """
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{url}/jwks.json",
            "typ": TYPE,
            "alg_values_supported": [ALGORITHM],
            "versions": ["1"],
        }

    def trust(self, audience: str) -> dict[str, Any]:
        """Return what a server needs to verify: issuer, its audience, the public keys."""
        return {"issuer": self.issuer, "audience": audience, "jwks": self.jwks()}

    def subject(self, user_id: str, audience: str) -> str:
        """Return the opaque id of a user for one audience."""
        known = self._known_subjects.get((user_id, audience))
        if known is None:
            text = json.dumps([self._install_id, user_id, audience]).encode()
            digest = hmac.digest(self._subjects.material, _SUBJECT + text, hashlib.sha256)
            known = "p_" + base64.b32encode(digest[:20]).decode().lower()
            if len(self._known_subjects) >= _KNOWN_SUBJECTS:
                self._known_subjects.clear()
            self._known_subjects[(user_id, audience)] = known
        return known

    def __repr__(self) -> str:
        return f"ContextSigner({self.revision})"


def encrypt(values: Mapping[str, Secret], to: Mapping[str, str]) -> str:
    """Return credentials encrypted to a server's public key: a compact JWE (RFC 7516, RFC 8037).

    Args:
        values: Credential by slot.
        to: The server's public X25519 JWK.
    """
    plain = json.dumps({name: value.reveal() for name, value in values.items()}).encode()
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "kid": to.get("kid", ""), "cty": "json"}
    key = OKPKey.import_key(dict(to))  # pyright: ignore[reportArgumentType]
    return jwe.encrypt_compact(header, plain, key, algorithms=["ECDH-ES", "A256GCM"])


def _public(key: Key) -> dict[str, str]:
    public = Ed25519PrivateKey.from_private_bytes(key.material).public_key()
    return {
        "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": ALGORITHM,
        "kid": key.id, "x": _base64url(public.public_bytes_raw()),
    }  # fmt: skip


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
