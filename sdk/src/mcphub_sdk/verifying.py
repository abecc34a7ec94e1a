"""Verification of one assertion: signature, type, issuer, audience, time, replay, request.

Every step refuses; nothing falls back to a weaker one. The reasons are for logs and for the hub's
administrator: they hold no claim of the assertion. Specification: user context, version 1.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWTError

from mcphub_sdk.canonical import NotCanonical, request_digest
from mcphub_sdk.keys import KeySource, KeysUnavailable

TYPE: Final = "mcphub-user-context+jwt"
ALGORITHM: Final = "EdDSA"
MAX_BYTES: Final = 64 * 1024
MAX_LIFETIME_S: Final = 300
_CLAIMS: Final = ("iss", "sub", "aud", "iat", "exp", "jti", "request")
_MAX_SEEN: Final = 200_000
_OPTIONS: Final = {
    "require": list(_CLAIMS),
    # time is checked below, against a clock that is passed in
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}

_REASONS: Final = {
    jwt.InvalidSignatureError: "signature",
    jwt.InvalidIssuerError: "issuer",
    jwt.InvalidAudienceError: "audience",
}


class AssertionRefused(Exception):
    """An assertion does not count.

    Attributes:
        reason: Stable word: `malformed`, `type`, `key`, `signature`, `issuer`, `audience`,
            `expired`, `lifetime`, `not-yet`, `replayed`, `request`, `keys-unavailable`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"The user context was refused ({reason}).")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified assertion says.

    Attributes:
        issuer: The hub.
        subject: The user, opaque; by default another one for every server.
        token_id: The hub's id of the request.
        groups, permissions: As the hub's administrator configured; empty otherwise.
        client: Name that the user's client gives itself; for display only.
        credentials: Encrypted credentials (JWE), or "".
        expires_at: Epoch seconds.
    """

    issuer: str
    subject: str
    token_id: str
    expires_at: float
    groups: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    client: str = ""
    credentials: str = field(default="", repr=False)


class Verifier:
    """Verifies the assertions of one hub for one server. Safe for concurrent use.

    Args:
        issuer: The hub, exactly as in `iss`.
        audience: This server, exactly as in `aud`.
        keys: The hub's public keys.
        replay: Whether each assertion counts once only.
        leeway_s: Seconds by which the two clocks may differ.
        clock: Epoch seconds.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        keys: KeySource,
        *,
        replay: bool = True,
        leeway_s: float = 5.0,
        clock: Callable[[], float] = time.time,  # noqa: TID251  the default of what is passed in
    ) -> None:
        if not issuer or not audience:
            raise ValueError("a verifier needs the issuer and the audience")
        self.issuer, self.audience = issuer, audience
        self._keys = keys
        self._replay = replay
        self._leeway_s = leeway_s
        self._clock = clock
        self._seen: dict[str, float] = {}

    async def verify(self, token: str, method: str, params: Mapping[str, Any] | None) -> Claims:
        """Return what the assertion says of the user of exactly this request.

        Raises:
            AssertionRefused: It does not count.
        """
        if len(token) > MAX_BYTES:
            raise AssertionRefused("malformed")
        found = await self._signed(token)
        self._in_time(found)
        self._of_this_request(found, method, params)
        self._first_time(found)
        return _claims(found)

    async def _signed(self, token: str) -> Mapping[str, Any]:
        key = await self._key_of(token)
        try:
            found = jwt.decode(
                token,
                key,
                algorithms=[ALGORITHM],
                issuer=self.issuer,
                audience=self.audience,
                options=_OPTIONS,  # pyright: ignore[reportArgumentType]
            )
        except PyJWTError as error:
            raise AssertionRefused(_REASONS.get(type(error), "malformed")) from None
        if found["aud"] != self.audience:  # one audience, not one of many
            raise AssertionRefused("audience")
        if not all(isinstance(found[name], str) and found[name] for name in ("sub", "jti")):
            raise AssertionRefused("malformed")
        return found

    async def _key_of(self, token: str) -> jwt.PyJWK:
        try:
            header = jwt.get_unverified_header(token)
        except PyJWTError:
            raise AssertionRefused("malformed") from None
        if header.get("typ") != TYPE or header.get("alg") != ALGORITHM or "crit" in header:
            raise AssertionRefused("type")
        try:
            key = await self._keys.key(str(header.get("kid", "")))
        except KeysUnavailable:
            raise AssertionRefused("keys-unavailable") from None
        if key is None:
            raise AssertionRefused("key")
        return key

    def _in_time(self, found: Mapping[str, Any]) -> None:
        issued, expires = found["iat"], found["exp"]
        if not all(type(value) in (int, float) for value in (issued, expires)):
            raise AssertionRefused("malformed")
        now = self._clock()
        if not 0 < expires - issued <= MAX_LIFETIME_S:
            raise AssertionRefused("lifetime")
        if now >= expires + self._leeway_s:
            raise AssertionRefused("expired")
        if issued > now + self._leeway_s:
            raise AssertionRefused("not-yet")

    def _of_this_request(
        self, found: Mapping[str, Any], method: str, params: Mapping[str, Any] | None
    ) -> None:
        bound = found["request"]
        if not isinstance(bound, Mapping) or bound.get("method") != method:
            raise AssertionRefused("request")
        try:
            digest = request_digest(method, params)
        except NotCanonical:
            raise AssertionRefused("request") from None
        if bound.get("digest") != digest:
            raise AssertionRefused("request")

    def _first_time(self, found: Mapping[str, Any]) -> None:
        """Remember the assertion until it expires; without room for it, it does not count."""
        if not self._replay:
            return
        now = self._clock()
        if found["jti"] in self._seen:
            raise AssertionRefused("replayed")
        if len(self._seen) >= _MAX_SEEN:
            self._seen = {token: until for token, until in self._seen.items() if until > now}
            if len(self._seen) >= _MAX_SEEN:
                raise AssertionRefused("replayed")
        self._seen[found["jti"]] = found["exp"] + self._leeway_s


def _claims(found: Mapping[str, Any]) -> Claims:
    act = found.get("act")
    client = act.get("client") if isinstance(act, Mapping) else ""
    credentials = found.get("credentials")
    return Claims(
        issuer=found["iss"],
        subject=found["sub"],
        token_id=found["jti"],
        expires_at=found["exp"],
        groups=_names(found.get("groups")),
        permissions=_names(found.get("permissions")),
        client=client if isinstance(client, str) else "",
        credentials=credentials if isinstance(credentials, str) else "",
    )


def _names(value: object) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AssertionRefused("malformed")
    return frozenset(value)


def peek_claims(token: str) -> dict[str, Any]:
    """Return the claims of a token WITHOUT verifying it: for tests and for looking at, never to decide."""
    middle = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
