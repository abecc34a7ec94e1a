"""From a server's URL to its authorization server: challenges, protected resource, metadata.

Sources: RFC 9728, RFC 8414, OpenID Connect Discovery, MCP 2026-07-28 and 2025-11-25
basic/authorization §Authorization Server Discovery, §Scope Selection Strategy.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from mcphub.catalog.spec import ServerSpec
from mcphub.oauth.failing import AuthorizationFailed
from mcphub.oauth.fetching import Answer, Fetcher

OFFLINE: Final = "offline_access"
_MAX_SCOPES: Final = 64
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}\Z")
_BEARER: Final = re.compile(r"(?:\A|,)\s*Bearer(?:\s+|\Z)", re.I)
_PARAMETER: Final = re.compile(
    r'\s*,?\s*(?P<name>[A-Za-z0-9_-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))'
)
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LONGEST_HEADER: Final = 8192
_PROBE: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a server says with 401 or 403 (RFC 6750 §3, RFC 9728 §5.1)."""

    metadata_url: str = ""
    scopes: tuple[str, ...] = ()
    error: str = ""


class _Resource(msgspec.Struct):
    """Protected resource metadata (RFC 9728 §2), as far as it is used."""

    resource: str
    authorization_servers: list[str] | None = None
    scopes_supported: list[str] | None = None


class Metadata(msgspec.Struct):
    """Metadata of an authorization server (RFC 8414 §2), as far as it is used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: list[str] | None = None
    code_challenge_methods_supported: list[str] | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    client_id_metadata_document_supported: bool | None = None
    authorization_response_iss_parameter_supported: bool | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where a user's authorization comes from.

    Attributes:
        resource: The server's name in tokens (RFC 8707).
        scopes: What to ask for; empty to leave it to the authorization server.
        metadata: Of the authorization server.
    """

    resource: str
    scopes: tuple[str, ...]
    metadata: Metadata


async def discover(fetch: Fetcher, spec: ServerSpec) -> Found:
    """Find the authorization server of a server.

    Raises:
        HubError: Something on the way is missing, broken, or not what it should be.
    """
    challenge = await _challenge(fetch, spec.url)
    resource = await _resource(fetch, spec, challenge)
    named = resource.authorization_servers or []
    oauth = spec.oauth
    wanted = oauth.issuer if oauth is not None else ""
    if wanted and wanted not in named:
        raise AuthorizationFailed(
            f"Server '{spec.name}' does not name the authorization server of its settings.",
            hint="An administrator can correct oauth.issuer.",
        )
    if not named:
        raise AuthorizationFailed(f"Server '{spec.name}' names no authorization server.")
    metadata = await _metadata(fetch, spec.name, wanted or named[0])
    if oauth is not None and oauth.scopes:
        scopes = oauth.scopes
    else:
        scopes = challenge.scopes or valid_scopes(resource.scopes_supported or ())
    if scopes and OFFLINE in (metadata.scopes_supported or ()):
        scopes = union(scopes, (OFFLINE,))
    return Found(resource.resource, scopes, metadata)


def challenge_of(headers: Iterable[str]) -> Challenge:
    """Return the Bearer challenge of `WWW-Authenticate` headers; an empty one when there is none."""
    for header in headers:
        # what stands in quotes is no scheme: "a, Bearer b"
        bare = _QUOTED.sub(lambda match: "_" * len(match[0]), header[:_LONGEST_HEADER])
        begin = _BEARER.search(bare)
        if begin is None:
            continue
        values: dict[str, str] = {}
        at = begin.end()
        while (match := _PARAMETER.match(header, at)) is not None:
            quoted = match["quoted"]
            value = match["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            values.setdefault(match["name"].lower(), value)
            at = match.end()
        return Challenge(
            values.get("resource_metadata", ""),
            valid_scopes(values.get("scope", "").split()),
            values.get("error", ""),
        )
    return Challenge()


def valid_scopes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes that are ones, each once, at most as many as make sense."""
    return tuple(dict.fromkeys(name for name in names if _SCOPE.match(name)))[:_MAX_SCOPES]


def union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return the scopes of both, in order, each once."""
    return tuple(dict.fromkeys((*first, *second)))[: 2 * _MAX_SCOPES]


def covers(resource: str, url: str) -> bool:
    """Whether a token for a resource may be sent to a URL: same origin, at or below its path."""
    one, other = urlsplit(resource), urlsplit(url)
    if (one.scheme, one.netloc.lower()) != (other.scheme, other.netloc.lower()):
        return False
    return f"{other.path.rstrip('/')}/".startswith(f"{one.path.rstrip('/')}/") and not one.fragment


async def _challenge(fetch: Fetcher, url: str) -> Challenge:
    """Ask the server for something without a token, for what it says then."""
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
    }
    answer = await fetch.send("POST", url, headers, _PROBE)
    return challenge_of(answer.challenges) if answer.status in {401, 403} else Challenge()


async def _resource(fetch: Fetcher, spec: ServerSpec, challenge: Challenge) -> _Resource:
    """Return the metadata of the server; where it has none, its origin speaks for itself (2025-03-26)."""
    parts = urlsplit(spec.url)
    origin = f"{parts.scheme}://{parts.netloc}"
    root = f"{origin}/.well-known/oauth-protected-resource"
    path = parts.path.rstrip("/")
    for url in dict.fromkeys(filter(None, (challenge.metadata_url, root + path, root))):
        found = _decoded(await fetch.get(url), _Resource, spec.name)
        if found is None:
            continue
        if not covers(found.resource, spec.url):
            raise AuthorizationFailed(
                f"Server '{spec.name}' has metadata of another resource than itself.",
                hint="An administrator can compare it with the server's URL.",
            )
        return found
    return _Resource(f"{origin}{path}", [origin])


async def _metadata(fetch: Fetcher, server: str, issuer: str) -> Metadata:
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    known = f"{origin}/.well-known/"
    for url in dict.fromkeys(
        (
            f"{known}oauth-authorization-server{path}",
            f"{known}openid-configuration{path}",
            f"{origin}{path}/.well-known/openid-configuration",
        )
    ):
        found = _decoded(await fetch.get(url), Metadata, server)
        if found is None:
            continue
        # RFC 8414 §3.3: exactly what was asked for, compared as text
        if found.issuer != issuer:
            raise AuthorizationFailed(
                f"Server '{server}': its authorization server calls itself by another name."
            )
        if "S256" not in (found.code_challenge_methods_supported or ()):
            raise AuthorizationFailed(
                f"Server '{server}': its authorization server does not offer PKCE with S256, "
                "without which a code can be stolen."
            )
        for endpoint in (found.authorization_endpoint, found.token_endpoint):
            fetch.checked(endpoint)
        return found
    raise AuthorizationFailed(f"Server '{server}': its authorization server has no metadata.")


_Document = TypeVar("_Document", _Resource, Metadata)


def _decoded(answer: Answer, kind: type[_Document], server: str) -> _Document | None:
    """Return the document of an answer; None when it is not there.

    Raises:
        AuthorizationFailed: The host failed, which does not mean that there is none.
    """
    if answer.status >= 500 or answer.status == 429:
        raise AuthorizationFailed(
            f"Server '{server}': a metadata document could not be read (HTTP {answer.status}).",
            hint="Try again later.",
        )
    if answer.status != 200:
        return None
    return answer.document(kind)
