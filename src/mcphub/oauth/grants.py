"""A user's grant, and what is done with it at the token endpoint: exchange, refresh, revoke.

Sources: OAuth 2.1 §4.1.3, §4.3; RFC 6749 §2.3.1; RFC 7009; RFC 8707 §2.2.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard
from urllib.parse import quote, urlencode

import msgspec

from mcphub.errors import HubError, Unavailable
from mcphub.oauth.clients import BASIC, POST, Client
from mcphub.oauth.discovery import valid_scopes
from mcphub.oauth.failing import AuthorizationFailed, GrantDead, shown
from mcphub.oauth.fetching import Answer, Fetcher
from mcphub.secret import Secret

EARLY_S: Final = 30.0
"""So long before its end a token is renewed."""
_LONGEST_S: Final = 10 * 365 * 86400.0
_LONGEST_TOKEN: Final = 24 * 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """What one user has granted the hub at one authorization server, for one resource.

    Attributes:
        issuer, token_endpoint, revocation_endpoint: The authorization server that gave it.
        resource: What the tokens are for; they are sent nowhere else.
        client: Who the hub is there.
        scopes: What was granted.
        access: The access token.
        refresh: The refresh token, where there is one.
        expires_at: Epoch seconds; None when nobody said.
    """

    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    resource: str
    client: Client
    scopes: tuple[str, ...]
    access: Secret
    refresh: Secret | None = None
    expires_at: float | None = None

    def sealed(self) -> Secret:
        """Return all of it as the text that the vault keeps."""
        return Secret(msgspec.json.encode(self, enc_hook=_revealed).decode())

    @classmethod
    def opened(cls, text: Secret) -> "Grant | None":
        """Return what `sealed` kept; None for anything else."""
        try:
            return msgspec.json.decode(text.reveal().encode(), type=cls, dec_hook=_hidden)
        except (msgspec.DecodeError, UnicodeError):
            return None

    def is_fresh(self, now: float) -> bool:
        """Whether the access token can still be used for a moment."""
        return self.expires_at is None or now < self.expires_at - EARLY_S


def _revealed(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError


def _hidden(kind: type, value: object) -> object:
    if kind is Secret and isinstance(value, str):
        return Secret(value)
    raise NotImplementedError


async def exchanged(
    fetch: Fetcher, grant: Grant, code: Secret, verifier: Secret, secret: Secret | None, now: float
) -> Grant:
    """Return a grant with the tokens that an authorization code gives.

    Args:
        fetch: For the request.
        grant: The grant without tokens.
        code: The authorization code.
        verifier: What its challenge was made of (RFC 7636).
        secret: The client's.
        now: Epoch seconds.

    Raises:
        HubError: The authorization server refused, or does not answer.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code.reveal(),
        "redirect_uri": grant.client.redirect_uri,
        "code_verifier": verifier.reveal(),
        "resource": grant.resource,
    }
    answer = await _posted(fetch, grant.token_endpoint, form, grant.client, secret)
    if answer.status not in {200, 201}:
        raise AuthorizationFailed(
            f"Server '{fetch.server}': its authorization server refused the code "
            f"({shown(answer.members.get('error'))}).",
            hint=f"Start again: mcphub credential connect {fetch.server}",
        )
    return _with_tokens(fetch, grant, answer.members, now)


async def refreshed(fetch: Fetcher, grant: Grant, secret: Secret | None, now: float) -> Grant:
    """Return the grant with new tokens; what does not come anew stays.

    Raises:
        GrantDead: The authorization server says that it is over.
        Unavailable: It does not answer, or failed.
        AuthorizationFailed: It answers something else than tokens.
    """
    if grant.refresh is None:
        raise GrantDead
    form = {
        "grant_type": "refresh_token",
        "refresh_token": grant.refresh.reveal(),
        "resource": grant.resource,
    }
    answer = await _posted(fetch, grant.token_endpoint, form, grant.client, secret)
    if answer.status in {400, 401, 403} and isinstance(answer.members.get("error"), str):
        raise GrantDead
    if answer.status not in {200, 201}:
        raise Unavailable(
            f"Server '{fetch.server}': its authorization server failed (HTTP {answer.status}).",
            hint="Try again later.",
            retry_after_s=5,
        )
    return _with_tokens(fetch, grant, answer.members, now)


async def revoked(fetch: Fetcher, grant: Grant, secret: Secret | None) -> bool:
    """Tell the authorization server that a grant is over (RFC 7009); whether it said that it knows."""
    if not grant.revocation_endpoint:
        return False
    token, hint = grant.access, "access_token"
    if grant.refresh is not None:  # with it ends what was derived from it
        token, hint = grant.refresh, "refresh_token"
    form = {"token": token.reveal(), "token_type_hint": hint}
    try:
        answer = await _posted(fetch, grant.revocation_endpoint, form, grant.client, secret)
    except HubError:
        return False
    return answer.status == 200


async def _posted(
    fetch: Fetcher, endpoint: str, form: Mapping[str, str], client: Client, secret: Secret | None
) -> Answer:
    """Send a form with the client's proof (RFC 6749 §2.3.1)."""
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Accept": "application/json",
    }
    proof: dict[str, str] = {"client_id": client.id}
    if client.method == BASIC and secret is not None:
        pair = f"{quote(client.id, safe='')}:{quote(secret.reveal(), safe='')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        proof = {}
    elif client.method == POST and secret is not None:
        proof["client_secret"] = secret.reveal()
    return await fetch.send("POST", endpoint, headers, urlencode({**form, **proof}).encode())


def _with_tokens(fetch: Fetcher, grant: Grant, given: Mapping[str, Any], now: float) -> Grant:
    access, refresh = given.get("access_token"), given.get("refresh_token")
    kind, scope = given.get("token_type"), given.get("scope")
    if not _is_token(access) or not isinstance(kind, str) or kind.lower() != "bearer":
        raise AuthorizationFailed(
            f"Server '{fetch.server}': its authorization server gave no Bearer token."
        )
    return replace(
        grant,
        access=Secret(access),
        refresh=Secret(refresh) if _is_token(refresh) else grant.refresh,
        expires_at=_end(given.get("expires_in"), now),
        scopes=valid_scopes(scope.split()) if isinstance(scope, str) and scope else grant.scopes,
    )


def _is_token(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and 0 < len(value) <= _LONGEST_TOKEN
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _end(seconds: object, now: float) -> float | None:
    try:
        lives = float(seconds)  # pyright: ignore[reportArgumentType]  some servers write a text
    except (TypeError, ValueError, OverflowError):
        return None
    return now + lives if 0 <= lives <= _LONGEST_S else None
