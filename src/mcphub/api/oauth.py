"""Connecting accounts: the pages under `/oauth` for browsers, and the part of the user API beside them.

The pages work without scripts and load nothing. A browser proves its user by an API key in a form of
the hub's own origin; the cookie that it gets is good for this one flow. The API is for `mcphub
credential connect`: it never gives out a token or a code. Rules R4, R6, R15.
"""

import base64
import hashlib
import html
import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mcphub.api.callers import caller_and_body
from mcphub.api.replies import Endpoint, guarded, read_body, reply, status_of
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import Denied, HubError, InvalidInput, NotFound
from mcphub.oauth.clients import DOCUMENT, PUBLIC, OwnAddress
from mcphub.oauth.flows import LIVES_S, Flow, Flows, Handed
from mcphub.policy.model import Denial, Permit, Principal

_SERVER: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")
_FORM_LIMIT: Final = 4096
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:36rem;margin:3rem auto;padding:0 1rem}"
    "input{font:inherit;width:100%;padding:.4rem;box-sizing:border-box}"
    "button,.go{font:inherit;display:inline-block;margin-top:1rem;padding:.5rem 1rem;"
    "background:#1f4fd8;color:#fff;border:0;border-radius:.3rem;text-decoration:none}"
    "code{background:#8882;padding:.1rem .3rem;overflow-wrap:anywhere}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#eee}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    ),
    # not `no-referrer`: with it browsers send a form with `Origin: null`, also to its own origin
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class OAuthServices:
    """What the routes need, put together by `app`.

    Attributes:
        authenticate: API key -> principal, or None.
        decide: May this principal use that server.
        specs: All servers now.
        flows: Of the hub.
        own: Where the hub is.
    """

    authenticate: Callable[[str], Principal | None]
    decide: Callable[[Principal, str], Permit | Denial]
    specs: Callable[[], Mapping[str, ServerSpec]]
    flows: Flows
    own: Callable[[], OwnAddress]

    def permitted(self, principal: Principal, server: str) -> tuple[ServerSpec, Permit]:
        """Return spec and permit.

        Raises:
            NotFound: There is no such server for this user.
            Denied: The user knows it and may not use it.
        """
        spec = self.specs().get(server)
        verdict = self.decide(principal, server) if spec is not None else None
        if spec is not None and isinstance(verdict, Permit):
            return spec, verdict
        if isinstance(verdict, Denial) and verdict.visible:
            raise Denied(verdict.reason, hint=verdict.hint, code=verdict.rule)
        raise NotFound("There is no such server for you.", hint="See: mcphub credential list")


class _Begin(msgspec.Struct, forbid_unknown_fields=True):
    return_to: str = ""


class _Confirm(msgspec.Struct, forbid_unknown_fields=True):
    confirmation: str


def connection_routes(services: OAuthServices) -> list[Route]:
    """Return the routes of the user API; the caller mounts them under `/api`."""
    api = _ConnectionApi(services)
    path = "/me/connections/{server}"
    return [
        Route(path, guarded(api.begin), methods=["POST"]),
        Route(f"{path}/confirm", guarded(api.confirm), methods=["POST"]),
    ]


def oauth_routes(services: OAuthServices) -> list[Route]:
    """Return the pages and the client id metadata document."""
    pages = _Pages(services)
    return [
        Route("/oauth/connect/{server}", _shown(pages.form), methods=["GET"]),
        Route("/oauth/connect/{server}", _shown(pages.begin), methods=["POST"]),
        Route("/oauth/start/{flow}", _shown(pages.start), methods=["GET"]),
        Route("/oauth/callback", _shown(pages.callback), methods=["GET"]),
        Route(DOCUMENT, guarded(pages.document), methods=["GET"]),
    ]


class _ConnectionApi:
    """Begin and confirm, with the user's key."""

    def __init__(self, services: OAuthServices) -> None:
        self._services = services

    async def begin(self, request: Request) -> Response:
        """Begin a flow; the page to open is the hub's own."""
        caller, body = await caller_and_body(request, self._services.authenticate, _FORM_LIMIT)
        spec, permit = self._services.permitted(caller, request.path_params["server"])
        wanted = _decoded(body, _Begin)
        flow = await self._services.flows.begin(permit, spec, return_to=wanted.return_to)
        url = f"{self._services.own().hub_url.rstrip('/')}/oauth/start/{flow.id}"
        return reply({"url": url, "host": flow.host, "scopes": flow.asks, "expires_in": LIVES_S})

    async def confirm(self, request: Request) -> Response:
        """End a flow of the caller with what the browser was handed."""
        caller, body = await caller_and_body(request, self._services.authenticate, _FORM_LIMIT)
        given = _decoded(body, _Confirm)
        server = request.path_params["server"]
        await self._services.flows.confirm(caller.user_id, server, given.confirmation)
        return Response(status_code=204)


class _Pages:
    """What a browser sees."""

    def __init__(self, services: OAuthServices) -> None:
        self._services = services

    async def form(self, request: Request) -> Response:
        """Ask for the key; the same for every name, so that it tells nobody which servers there are."""
        server = _server(request)
        command = ["mcphub", "credential", "connect", server, "--url", self._services.own().hub_url]
        return _page(
            f"Connect {server}",
            f"<p>Connect your own account to the server <b>{html.escape(server)}</b> of this hub.</p>"
            '<form method="post"><label>Your API key of this hub'
            '<input type="password" name="key" autocomplete="off" required autofocus></label>'
            "<button>Continue</button></form>"
            f"<p>In a terminal: <code>{html.escape(shlex.join(command))}</code></p>",
        )

    async def begin(self, request: Request) -> Response:
        """Take the key, begin a flow that belongs to this browser, show where it leads."""
        if not _of_own_page(request, self._services.own().hub_url):
            raise Denied("This form was not sent by a page of the hub.", hint="Open the page anew.")
        form = parse_qs((await read_body(request, _FORM_LIMIT)).decode("ascii", "replace"))
        principal = self._services.authenticate(form.get("key", [""])[0].strip())
        if principal is None:
            raise InvalidInput("This is no valid API key of this hub.", hint="Go back, try again.")
        spec, permit = self._services.permitted(principal, _server(request))
        cookie = secrets.token_urlsafe(32)
        flow = await self._services.flows.begin(permit, spec, browser=cookie)
        response = _leads_to(flow)
        secure = self._services.own().is_web
        response.set_cookie(
            _cookie_name(secure), cookie, max_age=int(LIVES_S), path="/", secure=secure,
            httponly=True, samesite="lax",
        )  # fmt: skip
        return response

    async def start(self, request: Request) -> Response:
        """Show where a flow leads that was begun over the API."""
        return _leads_to(self._services.flows.page(request.path_params["flow"]))

    async def callback(self, request: Request) -> Response:
        """Take what the authorization server answered."""
        query = request.query_params
        if len(query.multi_items()) != len(query):
            raise InvalidInput("The answer holds a parameter twice.")
        secure = self._services.own().is_web
        cookie = request.cookies.get(_cookie_name(secure), "")
        ended = await self._services.flows.returned(dict(query), cookie)
        if isinstance(ended, Handed):
            return _handed(ended)
        response = _page(
            "Connected",
            f"<p>Your account is connected to <b>{html.escape(ended.title)}</b>. "
            "You can close this page and try the call again.</p>",
        )
        response.delete_cookie(_cookie_name(secure), path="/", secure=secure, httponly=True)
        return response

    async def document(self, _: Request) -> Response:
        """Say who the hub is, to authorization servers that ask."""
        own = self._services.own()
        if not own.is_web:
            raise NotFound("The hub has no public https address: see listen.public_url.")
        client_id = own.document or own.hub_url.rstrip("/") + DOCUMENT
        body = {"client_id": client_id, "client_uri": own.hub_url, **own.metadata(PUBLIC)}
        return JSONResponse(body, headers={"Cache-Control": "max-age=3600"})


def _leads_to(flow: Flow) -> HTMLResponse:
    """Show who connects what where, with what rights; the user goes on by a click."""
    rights = "".join(f"<li><code>{html.escape(scope)}</code></li>" for scope in flow.asks)
    rights = f"<p>It asks for:</p><ul>{rights}</ul>" if rights else ""
    return _page(
        f"Connect {flow.title}",
        f"<p>The hub will use your account at <b>{html.escape(flow.host)}</b> for the calls of "
        f"<b>{html.escape(flow.permit.principal.user_name)}</b> to the server "
        f"<b>{html.escape(flow.title)}</b>, and for nobody else's.</p>{rights}"
        f"<p>Go on only if you are {html.escape(flow.permit.principal.user_name)} and have just asked "
        "for this.</p>"
        f'<a class="go" rel="noreferrer" href="{html.escape(flow.url)}">'
        f"Continue at {html.escape(flow.host)}</a>",
    )


def _handed(handed: Handed) -> Response:
    if handed.goes_to:
        return RedirectResponse(handed.goes_to, 303, {**_HEADERS})
    return _page(
        "One more step",
        "<p>Copy this into the terminal in which you began, and nowhere else:</p>"
        f"<p><code>{html.escape(handed.confirmation)}</code></p>",
    )


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>"
    )
    return HTMLResponse(text, status, _HEADERS)


def _shown(endpoint: Endpoint) -> Endpoint:
    """Wrap a page so that errors of the hub become pages."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HubError as error:
            text = f"<p>{html.escape(error.message)}</p><p>{html.escape(error.hint)}</p>"
            return _page("That did not work", text, status_of(error))

    return guarded(answer)


def _of_own_page(request: Request, hub_url: str) -> bool:
    """Whether a form was sent by a page of this very origin: no other may choose whose key it is.

    It is the origin that the request was sent to, or the hub's own: a proxy may send another Host on.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin", "")
    host, own = request.headers.get("host", "").lower(), urlsplit(hub_url)
    if site != "same-origin":
        return False
    return urlsplit(origin).netloc.lower() == host or origin == f"{own.scheme}://{own.netloc}"


def _server(request: Request) -> str:
    name = request.path_params["server"]
    if not _SERVER.match(name):
        raise NotFound("This is not a server's name.")
    return name


def _cookie_name(secure: bool) -> str:
    return "__Host-mcphub-connect" if secure else "mcphub-connect"


_Body = TypeVar("_Body", _Begin, _Confirm)


def _decoded(body: bytes, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput("The body is not what this path takes.") from None
