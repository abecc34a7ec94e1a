"""From "connect my account" to a stored grant: the part of the flow that goes through a browser.

A flow belongs to the user who began it. Whoever comes back from the authorization server must prove to
be that user (rule R15), in one of two ways: the browser has the cookie that was set when the user gave
an API key on the hub's page; or the flow was begun over the API, and ends only when the holder of the
same key confirms it with what this browser was handed. A link that was passed on to somebody else
therefore never ties that person's account to the sender. A flow ends as its key would: when that is
revoked, or its user may not use the server any more, nothing is connected, and tokens that came
meanwhile are revoked.

Flows are in memory: after a restart of the hub a user starts again.
Sources: OAuth 2.1 §4.1, RFC 7636, RFC 8707, RFC 9207, MCP basic/authorization.
"""

import base64
import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlencode, urlsplit

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import InvalidInput, LimitExceeded, MissingCredential, NotFound
from mcphub.ids import Clock, steady_clock
from mcphub.oauth import grants
from mcphub.oauth.clients import Client, OwnAddress, client_for
from mcphub.oauth.connections import Connections
from mcphub.oauth.discovery import OFFLINE, Metadata, discover, union
from mcphub.oauth.failing import AuthorizationFailed, shown
from mcphub.oauth.grants import Grant
from mcphub.policy.model import Permit
from mcphub.secret import Secret

LIVES_S: Final = 600.0
"""Seconds from the beginning of a flow to its end."""
_PER_USER: Final = 8
_IN_ALL: Final = 2000
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1"})


@dataclass(slots=True, repr=False)
class Flow:
    """One user on the way to one server's authorization server and back.

    Attributes:
        id: Names the page that leads there.
        permit: Whose it is, and for which server.
        title: The server's display name.
        url: The authorization URL.
        host: Where the user logs in, for people to read.
        grant: What it becomes, without tokens.
        asks: The scopes that are asked for.
        iss_required: The answer must name its issuer (RFC 9207).
        return_to: Where the browser goes on for the confirmation; "" to show it.
        browser: Digest of the cookie that the browser must have; b"" when the key confirms.
        ends_at: Seconds of `Flows.clock`.
        code: The authorization code, once the browser has brought it.
    """

    id: str
    permit: Permit
    title: str
    url: str
    host: str
    grant: Grant
    verifier: Secret
    asks: tuple[str, ...]
    iss_required: bool
    return_to: str
    browser: bytes
    ends_at: float
    code: Secret | None = field(default=None)

    @property
    def server(self) -> str:
        """Name of the server."""
        return self.permit.server

    @property
    def user_id(self) -> str:
        """Opaque id of the user."""
        return self.permit.principal.user_id


@dataclass(frozen=True, slots=True)
class Handed:
    """What a browser is handed that comes back to a flow of the API."""

    flow: Flow
    confirmation: str

    @property
    def goes_to(self) -> str:
        """Where the browser goes with it; "" to show it."""
        query = urlencode({"confirmation": self.confirmation})
        return f"{self.flow.return_to}?{query}" if self.flow.return_to else ""


class Flows:
    """All flows of a hub, each found by one secret at a time.

    Args:
        connections: What a flow ends in.
        own: Where the hub is.
        may: Whether what a flow was begun with would be permitted now.

    Attributes:
        clock: Goes on evenly: how long a flow lives is no matter of the wall clock.
    """

    def __init__(
        self,
        connections: Connections,
        own: Callable[[], OwnAddress],
        may: Callable[[Permit], bool],
    ) -> None:
        self._connections, self.own, self._may = connections, own, may
        self.clock: Clock = steady_clock
        self._flows: dict[str, Flow] = {}  # by the digest of each secret that leads to one
        self._beginning: Counter[str] = Counter()

    async def begin(
        self, permit: Permit, spec: ServerSpec, *, browser: str = "", return_to: str = ""
    ) -> Flow:
        """Find the authorization server and make the hub known to it.

        Args:
            permit: Whose account is connected to which server.
            spec: The server.
            browser: The cookie of the browser that goes there; "" when the key confirms.
            return_to: Loopback URL at which the user's own machine waits for the browser.

        Raises:
            InvalidInput: The server needs no account, or `return_to` is no loopback URL.
            LimitExceeded: Too many are on their way: each may make a client at a foreign server.
            HubError: The server or its authorization server does not do what it should.
        """
        if spec.oauth is None:
            raise InvalidInput(
                f"Server '{spec.name}' needs no account to be connected.",
                hint="See: mcphub credential list",
            )
        if return_to:
            _check_loopback(return_to)
        user_id = permit.principal.user_id
        self._admit(user_id)
        self._beginning[user_id] += 1
        try:
            return await self._begun(permit, spec, browser, return_to)
        finally:
            self._beginning[user_id] -= 1
            if not self._beginning[user_id]:
                del self._beginning[user_id]

    async def _begun(self, permit: Permit, spec: ServerSpec, browser: str, return_to: str) -> Flow:
        user_id, store = permit.principal.user_id, self._connections.store
        fetch = store.fetcher(spec.name)
        found = await discover(fetch, spec)
        before = await self._before(permit)
        same = before is not None and before.issuer == found.metadata.issuer
        known = before.client if before is not None and same and before.client.registered else None
        client = await client_for(fetch, spec, found.metadata, self.own(), known)
        asks = found.scopes
        if more := self._connections.wanted(user_id, spec.name):
            asks = union(more, asks)
        grant = _empty(found.metadata, found.resource, client, asks)
        state, verifier = secrets.token_urlsafe(32), Secret(secrets.token_urlsafe(64))
        flow = Flow(
            id=secrets.token_urlsafe(32),
            permit=permit,
            title=spec.title,
            url=_authorization_url(found.metadata, grant, asks, state, verifier),
            host=urlsplit(found.metadata.authorization_endpoint).netloc,
            grant=grant,
            verifier=verifier,
            asks=asks,
            iss_required=bool(found.metadata.authorization_response_iss_parameter_supported),
            return_to=return_to,
            browser=_digest(browser) if browser else b"",
            ends_at=self.clock() + LIVES_S,
        )
        self._keep(("page", flow.id), flow)
        self._keep(("state", state), flow)
        return flow

    def page(self, flow_id: str) -> Flow:
        """Return a flow to show where it leads.

        Raises:
            NotFound: There is none any more.
        """
        return self._found(("page", flow_id))

    async def returned(self, query: Mapping[str, str], browser: str) -> Flow | Handed:
        """Take what the authorization server sent the browser back with; the state is used up by it.

        Args:
            query: Parameters of the callback.
            browser: The browser's cookie, or "".

        Returns:
            The flow when it has ended with a grant; what the browser is handed when a key confirms it.

        Raises:
            NotFound: The state belongs to no flow, or to that of another browser.
            HubError: It was declined, or somebody else answered, or the code is refused.
        """
        flow = self._found(("state", query.get("state", "")))
        self._drop(flow)
        if flow.browser and not hmac.compare_digest(flow.browser, _digest(browser)):
            raise _unknown()
        _check_issuer(flow, query.get("iss"))
        if "error" in query or not query.get("code"):
            raise AuthorizationFailed(
                f"Server '{flow.server}' was not connected ({shown(query.get('error'))}).",
                hint=f"To try again: mcphub credential connect {flow.server}",
                code="declined" if query.get("error") == "access_denied" else None,
            )
        flow.code = Secret(query["code"])
        if flow.browser:
            await self._finish(flow)
            return flow
        confirmation = secrets.token_urlsafe(32)
        self._keep(("confirm", confirmation), flow)
        return Handed(flow, confirmation)

    async def confirm(self, user_id: str, server: str, confirmation: str) -> None:
        """End a flow that was begun over the API, by the user who began it.

        Raises:
            NotFound: It is none of this user, for this server.
            HubError: The authorization server refuses the code.
        """
        flow = self._found(("confirm", confirmation))
        if flow.user_id != user_id or flow.server != server:
            raise _unknown()
        self._drop(flow)
        await self._finish(flow)

    async def _finish(self, flow: Flow) -> None:
        store = self._connections.store
        assert flow.code is not None
        if not self._may(flow.permit) or store.spec(flow.server) is None:
            raise _unknown()
        secret = store.secret(flow.server, flow.grant.client)
        grant = await grants.exchanged(
            store.fetcher(flow.server), flow.grant, flow.code, flow.verifier, secret, store.clock()
        )
        try:
            if not self._may(flow.permit):
                raise _unknown()
            await store.keep(flow.permit.principal, flow.server, grant)
        except Exception:  # nobody has the tokens, so nobody could revoke them later
            await store.revoke(flow.server, grant)
            raise
        self._connections.satisfied(flow.user_id, flow.server)
        await self._connections.changed()

    async def _before(self, permit: Permit) -> Grant | None:
        try:
            grant, _ = await self._connections.store.stored(permit)
        except MissingCredential:
            return None
        return grant

    # ------------------------------------------------------------------ what is in memory

    def _admit(self, user_id: str) -> None:
        now = self.clock()
        for old in [name for name, each in self._flows.items() if each.ends_at < now]:
            del self._flows[old]
        mine = {each.id: each.ends_at for each in self._flows.values() if each.user_id == user_id}
        if len(mine) + self._beginning[user_id] >= _PER_USER or len(self._flows) >= 2 * _IN_ALL:
            raise LimitExceeded(
                "Too many connections have been begun and not ended.",
                hint="End one in your browser, or wait.",
                retry_after_s=min(mine.values(), default=now + 30) - now,
            )

    def _keep(self, key: tuple[str, str], flow: Flow) -> None:
        """Keep a flow by the digest of a secret."""
        self._flows[_name(key)] = flow

    def _found(self, key: tuple[str, str]) -> Flow:
        flow = self._flows.get(_name(key))
        if flow is None or flow.ends_at < self.clock():
            raise _unknown()
        return flow

    def _drop(self, flow: Flow) -> None:
        for name in [name for name, each in self._flows.items() if each is flow]:
            del self._flows[name]


def _check_issuer(flow: Flow, issuer: str | None) -> None:
    """Refuse an answer of another authorization server than the one asked (RFC 9207 §2.4).

    Raises:
        AuthorizationFailed: It names another one, or none although it should.
    """
    if issuer is None and not flow.iss_required:
        return
    if issuer != flow.grant.issuer:
        raise AuthorizationFailed(
            f"Server '{flow.server}': the answer does not come from the authorization server that "
            "was asked. Nothing was connected.",
            hint="Start again. If it happens again, tell an administrator.",
            code="wrong_issuer",
        )


def _check_loopback(url: str) -> None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme == "http" and parts.hostname in _LOOPBACK and parts.port
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or set(url) & set("?#@\\ "):
        raise InvalidInput(
            "The browser can be sent back to this machine only.",
            hint="Write http://127.0.0.1:PORT/path",
        )


def _empty(metadata: Metadata, resource: str, client: Client, asks: tuple[str, ...]) -> Grant:
    return Grant(
        issuer=metadata.issuer,
        token_endpoint=metadata.token_endpoint,
        revocation_endpoint=metadata.revocation_endpoint or "",
        resource=resource,
        client=client,
        scopes=asks,
        access=Secret(""),
    )


def _authorization_url(
    metadata: Metadata, grant: Grant, asks: tuple[str, ...], state: str, verifier: Secret
) -> str:
    digest = hashlib.sha256(verifier.reveal().encode()).digest()
    query = {
        "response_type": "code",
        "client_id": grant.client.id,
        "redirect_uri": grant.client.redirect_uri,
        "state": state,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
        "resource": grant.resource,
    }
    query |= {"scope": " ".join(asks)} if asks else {}
    # without it an authorization server may leave the refresh token out (OpenID Connect §11)
    query |= {"prompt": "consent"} if OFFLINE in asks else {}
    endpoint = metadata.authorization_endpoint
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"


def _name(key: tuple[str, str]) -> str:
    """Return what a flow is kept by: no secret itself, so no comparison can tell one."""
    return f"{key[0]}:{hashlib.sha256(key[1].encode()).hexdigest()}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _unknown() -> NotFound:
    return NotFound(
        "This is no way to an account that you are connecting now, or it took too long.",
        hint="Start again: mcphub credential connect SERVER, or the page that the error named.",
    )
