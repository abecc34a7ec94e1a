"""Sealing one credential: AES-256-GCM, bound to the place where it belongs.

Pure. A sealed value opens only with the same key *and* the same place: install, user, server, slot,
key id and revision are authenticated with it (AAD), so a row that was moved to another user, server or
slot, or put back from an older copy beside a newer revision, does not open.
"""

import json
import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcphub.errors import Unavailable
from mcphub.secret import Secret
from mcphub.vault.keys import Key

_NONCE_BYTES = 12
"""96 bits, drawn at random: fine for 2**32 values under one key (NIST SP 800-38D, 8.3)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a credential belongs; all of it is authenticated."""

    install_id: str
    user_id: str
    server: str
    slot: str
    revision: int

    def bound_to(self, key_id: str) -> bytes:
        """Return the additional authenticated data; JSON keeps the borders between the fields."""
        fields = [self.install_id, self.user_id, self.server, self.slot, key_id, self.revision]
        return json.dumps(["mcphub credential 1", *fields]).encode()


class CredentialUnreadable(Unavailable):
    """A stored credential does not open: its key is missing, or the row was changed or moved."""

    code = "credential_unreadable"


def seal(key: Key, place: Place, value: Secret) -> tuple[bytes, bytes]:
    """Return nonce and sealed bytes."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    plain = value.reveal().encode()
    return nonce, AESGCM(key.material).encrypt(nonce, plain, place.bound_to(key.id))


def unseal(key: Key, place: Place, nonce: bytes, sealed: bytes) -> Secret:
    """Return the value.

    Raises:
        CredentialUnreadable: Anything differs from when it was sealed.
    """
    try:
        plain = AESGCM(key.material).decrypt(nonce, sealed, place.bound_to(key.id))
    except (InvalidTag, ValueError):  # ValueError: a nonce or a body of an impossible length
        raise CredentialUnreadable(
            f"The stored credential {place.slot} for '{place.server}' does not open.",
            hint="Set it again. If you did not change the database by hand, tell an administrator.",
            retry_after_s=60,
        ) from None
    return Secret(plain.decode())
