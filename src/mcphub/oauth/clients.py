"""Who the hub is to an authorization server: by hand, by document, or by registration, in this order.

Sources: MCP 2026-07-28 basic/authorization §Client Registration; RFC 7591; OAuth Client ID Metadata
Document. A registered client belongs to one user and one issuer, and is kept with the user's grant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mcphub.catalog.spec import ServerSpec
from mcphub.oauth.discovery import Metadata
from mcphub.oauth.failing import AuthorizationFailed, shown
from mcphub.oauth.fetching import Fetcher
from mcphub.secret import Secret

CALLBACK: Final = "/oauth/callback"
DOCUMENT: Final = "/oauth/client-metadata.json"
NAME: Final = "MCPHub"
BASIC: Final = "client_secret_basic"
POST: Final = "client_secret_post"
PUBLIC: Final = "none"
_METHODS: Final = (BASIC, POST, PUBLIC)
"""How the hub can prove itself at a token endpoint, best first."""


@dataclass(frozen=True, slots=True)
class Client:
    """The hub as one authorization server knows it.

    Attributes:
        id: `client_id`.
        method: How it proves itself at the token endpoint.
        secret: Of a registered client; that of the settings is looked up when it is needed.
        redirect_uri: Where codes are sent to, exactly.
        registered: It was made by a registration, and is of one issuer.
    """

    id: str
    method: str
    secret: Secret | None
    redirect_uri: str
    registered: bool = False


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """Where the hub is, as authorization servers and browsers see it.

    Attributes:
        hub_url: URL of the hub.
        document: URL of its client id metadata document; "" when nobody could fetch one.
    """

    hub_url: str
    document: str = ""

    @property
    def redirect_uri(self) -> str:
        """Where codes are sent to."""
        return self.hub_url.rstrip("/") + CALLBACK

    @property
    def is_web(self) -> bool:
        """Whether it is a web application in the sense of registrations, or one of this machine."""
        return urlsplit(self.hub_url).scheme == "https"

    def metadata(self, method: str) -> dict[str, Any]:
        """Return what a registration or a document says of the hub."""
        return {
            "client_name": NAME,
            "redirect_uris": [self.redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
            "application_type": "web" if self.is_web else "native",
        }


async def client_for(
    fetch: Fetcher, spec: ServerSpec, metadata: Metadata, own: OwnAddress, before: Client | None
) -> Client:
    """Return the client for one user's connection.

    Args:
        fetch: For the registration.
        spec: The server.
        metadata: Of the authorization server.
        own: Where the hub is.
        before: A client that this user got by an earlier registration at the same issuer.

    Raises:
        HubError: The authorization server accepts none of the ways.
    """
    offered = metadata.token_endpoint_auth_methods_supported
    oauth = spec.oauth
    if oauth is not None and oauth.client_id:
        methods = (BASIC, POST) if oauth.client_secret is not None else (PUBLIC,)
        method = next((each for each in methods if offered is None or each in offered), methods[0])
        return Client(oauth.client_id, method, None, own.redirect_uri)
    if metadata.client_id_metadata_document_supported and own.document:
        return Client(own.document, PUBLIC, None, own.redirect_uri)
    if before is not None and before.redirect_uri == own.redirect_uri:
        return before
    if not metadata.registration_endpoint:
        raise AuthorizationFailed(
            f"Server '{spec.name}': its authorization server does not let the hub register itself.",
            hint="An administrator registers a client there with the redirect URI "
            f"{own.redirect_uri} and writes oauth.clientId (and clientSecret) into the settings.",
        )
    method = next((each for each in _METHODS if offered is None or each in offered), "")
    if not method:
        raise AuthorizationFailed(
            f"Server '{spec.name}': its authorization server wants clients to prove themselves in "
            "a way that the hub does not know."
        )
    return await _registered(fetch, spec.name, metadata.registration_endpoint, own, method)


async def _registered(
    fetch: Fetcher, server: str, endpoint: str, own: OwnAddress, method: str
) -> Client:
    data = msgspec.json.encode(own.metadata(method))
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    answer = await fetch.send("POST", endpoint, headers, data)
    given: Mapping[str, Any] = answer.members
    client_id, secret = given.get("client_id"), given.get("client_secret")
    if answer.status not in {200, 201} or not isinstance(client_id, str) or not client_id:
        raise AuthorizationFailed(
            f"Server '{server}': its authorization server refused to register the hub "
            f"(HTTP {answer.status}, {shown(given.get('error'))}).",
            hint="An administrator can register a client by hand and write oauth.clientId.",
        )
    assigned = given.get("token_endpoint_auth_method") or method
    if assigned not in _METHODS or (assigned != PUBLIC and not isinstance(secret, str)):
        raise AuthorizationFailed(
            f"Server '{server}': its authorization server registered the hub in a way that the hub "
            "cannot use."
        )
    kept = Secret(secret) if assigned != PUBLIC and isinstance(secret, str) else None
    return Client(client_id, assigned, kept, own.redirect_uri, registered=True)
