"""From a request to its user: where the assertion travels, and what happens without one.

One `UserContext` belongs to one server and is used by all adapters (`server`, `asgi`).
"""

import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from mcphub_sdk.credentials import CredentialsUnreadable, DecryptionKey
from mcphub_sdk.settings import decryption_key_of, verifier_of
from mcphub_sdk.state import MemoryStore, States, Store, place_of
from mcphub_sdk.user import LOCAL_ID, LOCAL_ISSUER, User, current_user_or_none
from mcphub_sdk.verifying import AssertionRefused, Claims, Verifier

EXTENSION: Final = "dev.mcphub/user-context"
"""The extension's identifier, and the key of the assertion in `_meta`."""
HEADER: Final = "x-mcphub-user-context"
VERSION: Final = "1"
USER_CONTEXT_MISSING: Final = 4012
USER_CONTEXT_REFUSED: Final = 4013
"""JSON-RPC codes outside of the range that JSON-RPC and MCP keep for themselves."""
_FREE: Final = frozenset(
    {"initialize", "ping", "server/discover", "logging/setLevel", "tools/list", "prompts/list"}
    | {"resources/list", "resources/templates/list", "subscriptions/listen"}
)
"""Requests that need no user: openings and lists, which a hub also asks on nobody's behalf."""


class Without(StrEnum):
    """What a request without a user context is. The author chooses; there is no default."""

    REFUSE = "refuse"
    """An error. For servers that are only used through a hub."""
    ONE_USER = "one-user"
    """The one local user, for a stdio server that a person runs alone. Never when a hub is set."""
    ANONYMOUS = "anonymous"
    """No user: `current_user()` raises, tools that need none work."""


class Refusal(Exception):
    """A request is not served for lack of a valid user context.

    Attributes:
        missing: There was none; otherwise there was one that does not count.
    """

    def __init__(self, message: str, *, missing: bool) -> None:
        super().__init__(message)
        self.message = message
        self.missing = missing


class UserContext:
    """Verifies the user context of one server's requests.

    Args:
        without_user: What a request without a context is.
        trust: See `settings.verifier_of`; None reads the environment.
        replay: Whether an assertion counts once only.
        store: Where states are kept; in memory by default.
        decryption_key: Private JWK for encrypted credentials; None reads the environment.
        clock: Epoch seconds.
    """

    def __init__(
        self,
        without_user: Without | str,
        *,
        trust: Mapping[str, Any] | None = None,
        replay: bool = True,
        store: Store | None = None,
        decryption_key: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,  # noqa: TID251  the default of what is passed in
    ) -> None:
        self.without_user = Without(without_user)
        self.verifier: Verifier | None = verifier_of(trust, replay=replay, clock=clock)
        self._key: DecryptionKey | None = decryption_key_of(decryption_key)
        self._states = States(store if store is not None else MemoryStore())

    @property
    def advertised(self) -> dict[str, Any]:
        """The extension's settings in the server's capabilities. No audience: a hub must not take it from here."""
        return {"versions": [VERSION], "required": self.without_user is Without.REFUSE}

    async def user_of(
        self, method: str, params: Mapping[str, Any] | None, header: str | None, *, over_http: bool
    ) -> User | None:
        """Return the user of a request; None when it has none and needs none.

        Args:
            method: JSON-RPC method of the request.
            params: Its parameters as they came.
            header: Value of the mirror header, when the transport has headers.
            over_http: Whether the request came over a network.

        Raises:
            Refusal: The request is not served.
        """
        token = _token(params)
        if header and token is not None and header != token:
            raise Refusal("The user context in header and body differ.", missing=False)
        if token is None:
            return self._without(method, over_http=over_http)
        if self.verifier is None:
            raise Refusal(
                "A user context came, but this server was not told which hub to trust.",
                missing=False,
            )
        try:
            claims = await self.verifier.verify(token, method, params)
        except AssertionRefused as error:
            raise Refusal(str(error), missing=False) from None
        return self._user(claims)

    def _without(self, method: str, *, over_http: bool) -> User | None:
        if self.without_user is Without.ONE_USER and self.verifier is None and not over_http:
            return self._local()
        if self.without_user is Without.ANONYMOUS or method in _FREE:
            return None
        if self.without_user is Without.ONE_USER and over_http:
            text = "This server has one local user and is not shared over HTTP without a hub."
        else:
            text = "This server needs to know its user: call it through a hub that sends the user context."
        raise Refusal(text, missing=True)

    def _user(self, claims: Claims) -> User:
        credentials: Mapping[str, str] = {}
        if claims.credentials and self._key is not None:
            try:
                credentials = self._key.open(claims.credentials)
            except CredentialsUnreadable:
                raise Refusal(
                    "The user's credentials do not open with this server's key.", missing=False
                ) from None
        return User(
            id=claims.subject,
            issuer=claims.issuer,
            state=self._states.of(claims.issuer, claims.subject, _is_current),
            groups=claims.groups,
            permissions=claims.permissions,
            client=claims.client,
            request_id=claims.token_id,
            _credentials=credentials,
        )

    def _local(self) -> User:
        state = self._states.of(LOCAL_ISSUER, LOCAL_ID, _is_current)
        return User(id=LOCAL_ID, issuer=LOCAL_ISSUER, state=state)


def _is_current(place: str) -> bool:
    user = current_user_or_none()
    return user is not None and place_of(user.issuer, user.id) == place


def _token(params: Mapping[str, Any] | None) -> str | None:
    """Return the assertion of a request; the body is the normative place, a header alone is none.

    Raises:
        Refusal: The key is there, but not as an assertion.
    """
    meta = params.get("_meta") if isinstance(params, Mapping) else None
    if not isinstance(meta, Mapping) or EXTENSION not in meta:
        return None
    value = meta[EXTENSION]
    token = value.get("assertion") if isinstance(value, Mapping) else None
    if not isinstance(token, str) or not token:
        raise Refusal("The user context has not the form of version 1.", missing=False)
    return token
