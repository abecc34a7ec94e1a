"""Credentials that travel encrypted to this server: opening a compact JWE.

Exactly one algorithm: ECDH-ES (direct) over X25519 with A256GCM (RFC 7516, RFC 7518 §4.6, RFC 8037
§3.2). The JWE is a claim of the signed assertion, so whom it belongs to is proven there.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

_ENC: Final = "A256GCM"
_KEY_BYTES: Final = 32


class CredentialsUnreadable(Exception):
    """The encrypted credentials do not open with this server's key."""


class DecryptionKey:
    """This server's private X25519 key.

    Args:
        jwk: The private key as a JWK (`kty` OKP, `crv` X25519, `d`, `x`, `kid`).
    """

    def __init__(self, jwk: Mapping[str, Any]) -> None:
        if jwk.get("kty") != "OKP" or jwk.get("crv") != "X25519" or not jwk.get("d"):
            raise ValueError("a decryption key is a private JWK of kty OKP and crv X25519")
        self._key = X25519PrivateKey.from_private_bytes(_bytes(str(jwk["d"])))
        self.key_id = str(jwk.get("kid", ""))

    def __repr__(self) -> str:
        return f"DecryptionKey({self.key_id!r})"

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public half, for the hub's settings (`userContext.encryptTo`)."""
        raw = self._key.public_key().public_bytes_raw()
        return {
            "kty": "OKP", "crv": "X25519", "use": "enc", "alg": "ECDH-ES",
            "kid": self.key_id, "x": _text(raw),
        }  # fmt: skip

    def open(self, sealed: str) -> dict[str, str]:
        """Return the credentials by slot.

        Raises:
            CredentialsUnreadable: Another key, another algorithm, or changed.
        """
        try:
            protected, encrypted_key, nonce, text, tag = sealed.split(".")
            header = json.loads(_bytes(protected))
            if header.get("alg") != "ECDH-ES" or header.get("enc") != _ENC or encrypted_key:
                raise CredentialsUnreadable("another algorithm")
            if "zip" in header or "crit" in header:
                raise CredentialsUnreadable("a header that is not understood")
            key = self._agreed(header)
            plain = AESGCM(key).decrypt(
                _bytes(nonce), _bytes(text) + _bytes(tag), protected.encode("ascii")
            )
            values = json.loads(plain)
        except (ValueError, KeyError, TypeError, AttributeError, InvalidTag):
            raise CredentialsUnreadable("they do not open") from None
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise CredentialsUnreadable("they are no credentials")
        return values

    def _agreed(self, header: Mapping[str, Any]) -> bytes:
        other = header["epk"]
        if other.get("kty") != "OKP" or other.get("crv") != "X25519":
            raise CredentialsUnreadable("another curve")
        secret = self._key.exchange(X25519PublicKey.from_public_bytes(_bytes(other["x"])))
        parts = [_ENC.encode(), _bytes(header.get("apu", "")), _bytes(header.get("apv", ""))]
        info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        info += (_KEY_BYTES * 8).to_bytes(4, "big")
        return ConcatKDFHash(SHA256(), _KEY_BYTES, info).derive(secret)


def new_decryption_key() -> dict[str, str]:
    """Return a new private JWK. Keep it where this server's other secrets are."""
    key = X25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    return {
        "kty": "OKP", "crv": "X25519", "use": "enc", "alg": "ECDH-ES",
        "kid": _text(public)[:16], "x": _text(public), "d": _text(key.private_bytes_raw()),
    }  # fmt: skip


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("no base64url") from None
