"""What can go wrong on the way to an authorization, as errors with the next step.

Nothing that a foreign server wrote is repeated, but for the error codes of the standards: a text of
theirs could hold a code or a token.
"""

import re
from typing import Final

from mcphub.errors import MissingCredential, UpstreamFailed
from mcphub.secret import OAUTH_SLOT

_CODE: Final = re.compile(r"[a-z][a-z_]{0,39}\Z")
PAGE: Final = "/oauth/connect/"


class AuthorizationFailed(UpstreamFailed):
    """The server or its authorization server does not do what the standards ask for."""

    code = "authorization_failed"


class AddressRefused(AuthorizationFailed):
    """A URL that came from outside leads where the hub does not go (rule R20)."""

    code = "address_refused"


class GrantDead(Exception):
    """The authorization server does not know the grant any more; only its user can make another."""


def next_step(hub_url: str, server: str) -> str:
    """Return how a user connects an account."""
    page = f"open {hub_url.rstrip('/')}{PAGE}{server} in a browser, or " if hub_url else ""
    return f"To connect, {page}run: mcphub credential connect {server}"


def not_connected(hub_url: str, server: str) -> MissingCredential:
    """Return the error for a user whose authorization is not there or not valid any more."""
    return MissingCredential(
        f"Server '{server}' does not accept your authorization any more ({OAUTH_SLOT}): it has "
        "expired, or was revoked.",
        hint=next_step(hub_url, server),
    )


def more_needed(hub_url: str, server: str, scopes: tuple[str, ...]) -> MissingCredential:
    """Return the error for a call that needs more rights than the user has granted."""
    named = f": {', '.join(scopes)}" if scopes else ""
    return MissingCredential(
        f"Server '{server}' needs further rights from you for this{named}.",
        hint=next_step(hub_url, server) + " Then try the call again.",
        code="insufficient_scope",
    )


def shown(code: object) -> str:
    """Return an error code of a standard, or "unknown" for anything else."""
    return code if isinstance(code, str) and _CODE.match(code) else "unknown"
