"""How users connect to a server that requires OAuth: the `oauth` object of an entry.

Values and checks only. The flow itself is in `mcphub.oauth`; nothing here is a user's.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mcphub.catalog.entries import OAuthEntry, ServerEntry
from mcphub.policy.model import Transport
from mcphub.secret import OAUTH_SLOT, Secret

OAUTH_PLACE: Final = "oauth"
"""Where the slot of an authorization stands: in no template."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}\Z")  # RFC 6749 §3.3
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?::[0-9]{1,5})?\Z")

Found = tuple[str, str, tuple[str | int, ...]]
"""Message, hint and place of a problem."""


@dataclass(frozen=True, slots=True)
class OAuthSpec:
    """The `oauth` object of a server.

    Attributes:
        client_id: Of a client that was registered by hand; "" for a document or a registration.
        client_secret: Its secret, the operator's; None for a public client.
        scopes: What to ask for instead of what the server names; empty for that.
        issuer: The one authorization server that may be used; "" for the first that the server names.
        private_hosts: `host` or `host:port` of authorization servers inside the own network.
    """

    client_id: str = ""
    client_secret: Secret | None = None
    scopes: tuple[str, ...] = ()
    issuer: str = ""
    private_hosts: tuple[str, ...] = ()

    @property
    def content(self) -> tuple[object, ...]:
        """What a running connection depends on, for the digest of a spec; no secret."""
        return ("oauth", self.client_id, self.scopes, self.issuer)


def oauth_of(entry: ServerEntry, operators: Callable[..., str]) -> OAuthSpec | None:
    """Return how users connect to a server; None when it has no OAuth.

    Args:
        entry: As written.
        operators: Fills the operator's templates into a text: (text, *place).
    """
    written = entry.oauth
    if written is None:
        return None
    secret = operators(written.client_secret, "oauth", "clientSecret")
    return OAuthSpec(
        client_id=operators(written.client_id, "oauth", "clientId"),
        client_secret=Secret(secret) if secret else None,
        scopes=tuple(written.scopes),
        issuer=written.issuer,
        private_hosts=tuple(host.lower() for host in written.private_hosts),
    )


def problems_of(entry: ServerEntry, transport: Transport, url: str) -> Iterator[Found]:
    """Yield what is wrong with the `oauth` object of an entry."""
    written = entry.oauth
    if written is None:
        return
    parts = urlsplit(url)
    if transport is not Transport.HTTP:
        yield "Only a server with a URL can require OAuth.", "Remove it.", ("oauth",)
    elif parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        yield "Tokens would travel in clear: the URL is plain http.", "Use https.", ("oauth",)
    if "$" in url:
        yield (
            "With OAuth the URL is the same for all users: a token is issued for it.",
            "Remove the template from the URL.",
            ("url",),
        )
    if any(name.lower() == "authorization" for name in entry.headers):
        hint = 'Remove the header, or "oauth".'
        yield "With OAuth the hub sets this header.", hint, ("headers",)
    if entry.isolation == "shared":
        yield "Each user has an own authorization: it cannot be shared.", "", ("isolation",)
    yield from _list_problems(written)
    if OAUTH_SLOT in entry.credential_slots or any(
        f"${{USER_{OAUTH_SLOT}}}" in text for text in entry.headers.values()
    ):
        yield "This slot is the authorization itself.", "Choose another name.", ("credentialSlots",)


def _list_problems(written: OAuthEntry) -> Iterator[Found]:
    if written.client_secret and not written.client_id:
        yield "A secret without a client.", 'Write "clientId" too.', ("oauth", "clientSecret")
    for index, scope in enumerate(written.scopes):
        if not _SCOPE.match(scope):
            yield (
                "It is no scope (RFC 6749 §3.3).",
                "One for each entry.",
                ("oauth", "scopes", index),
            )
    for index, host in enumerate(written.private_hosts):
        if not _HOST.match(host.lower()):
            hint = "Write `host` or `host:port`."
            yield "It is no host.", hint, ("oauth", "privateHosts", index)
