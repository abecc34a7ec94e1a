"""Where a server learns whom to trust: its author's arguments, or what the hub put into its environment.

A hub that starts a stdio server sets `MCPHUB_USER_CONTEXT`: JSON with `issuer`, `audience` and `jwks`,
all public. Over HTTP whoever runs the server sets the same variable, with `hub` (a URL) instead of
`jwks`. `MCPHUB_USER_CONTEXT_KEY` holds the private JWK that opens encrypted credentials.
"""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcphub_sdk.credentials import DecryptionKey
from mcphub_sdk.keys import FixedKeys, HubKeys, KeySource
from mcphub_sdk.verifying import Verifier

VARIABLE: Final = "MCPHUB_USER_CONTEXT"
KEY_VARIABLE: Final = "MCPHUB_USER_CONTEXT_KEY"
_KNOWN: Final = frozenset({"issuer", "audience", "jwks", "hub"})


class WrongSettings(ValueError):
    """The settings of the user context cannot be used; the server must not start."""


def verifier_of(
    trust: Mapping[str, Any] | None, *, replay: bool, clock: Callable[[], float]
) -> Verifier | None:
    """Return the verifier that `trust` describes, or None when it is empty.

    Args:
        trust: `issuer`, `audience`, and `jwks` (a JWK set) or `hub` (a URL). None reads the
            environment.
        replay: As in `Verifier`.
        clock: Epoch seconds.

    Raises:
        WrongSettings: Something is missing or unknown.
    """
    given = _environment() if trust is None else trust
    if not given:
        return None
    unknown = set(given) - _KNOWN
    if unknown:
        raise WrongSettings(f"{VARIABLE} has an unknown member {sorted(unknown)[0]!r}")
    keys: KeySource
    try:
        if ("jwks" in given) == ("hub" in given):
            raise WrongSettings(f"{VARIABLE} needs either jwks or hub")
        keys = FixedKeys(given["jwks"]) if "jwks" in given else HubKeys(str(given["hub"]), clock)
        issuer = str(given.get("issuer") or given.get("hub", "")).rstrip("/")
        audience = str(given.get("audience", ""))
        return Verifier(issuer, audience, keys, replay=replay, clock=clock)
    except WrongSettings:
        raise
    except ValueError as error:
        raise WrongSettings(f"{VARIABLE}: {error}") from None


def decryption_key_of(jwk: Mapping[str, Any] | None) -> DecryptionKey | None:
    """Return the key that opens credentials; None reads the environment, which may have none."""
    if jwk is None:
        text = os.environ.get(KEY_VARIABLE, "")
        if not text:
            return None
        jwk = _object(text, KEY_VARIABLE)
    try:
        return DecryptionKey(jwk)
    except ValueError as error:
        raise WrongSettings(f"{KEY_VARIABLE}: {error}") from None


def _environment() -> Mapping[str, Any]:
    text = os.environ.get(VARIABLE, "")
    return _object(text, VARIABLE) if text else {}


def _object(text: str, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WrongSettings(f"{name} is no JSON object")  # its text may be a key: not repeated
    return found
