"""An authorization server and an MCP server that requires its tokens, on loopback, each at an own port.

Strict where a client could be careless: PKCE, exact redirect, client authentication, one use of codes
and of rotated refresh tokens (a second use ends the whole grant), audience. What it is told to do
wrong, it does wrong: see the attributes. Knows nothing of the hub.
"""

import asyncio
import base64
import hashlib
import secrets
import socket
import time
from contextlib import asynccontextmanager, nullcontext
from urllib.parse import unquote, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.servers.recording_http import RecordingServer
from tests.servers.sse_http import SseServer


class AuthorizationServer:
    """Accounts log in by the cookie `account`, as a browser that is logged in does.

    Attributes:
        metadata: Members that replace those of the metadata; None takes one away.
        iss: What the answer names as issuer: True for itself, False for nothing, or a text.
        lives_s: Seconds that an access token lives.
        hold: When set, the token endpoint waits for it.
        refuses_refresh: It fails a refresh with this status.
        describe_as: Its metadata as text, instead of what they should be.
        token_requests, registered, revocations: What happened.
    """

    def __init__(self):
        self.metadata, self.iss, self.lives_s = {}, True, 3600
        self.hold, self.refuses_refresh, self.describe_as = None, 0, ""
        self.token_requests, self.registered, self.revocations = [], {}, []
        self.authorized = []
        self.codes, self.access, self.refresh, self.dead = {}, {}, {}, set()

    def routes(self):
        return [
            Route("/.well-known/oauth-authorization-server", self.describe),
            Route("/register", self.register, methods=["POST"]),
            Route("/authorize", self.authorize),
            Route("/token", self.token, methods=["POST"]),
            Route("/revoke", self.revoke, methods=["POST"]),
        ]

    async def describe(self, request):
        found = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "registration_endpoint": f"{self.url}/register",
            "revocation_endpoint": f"{self.url}/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata
        if self.describe_as:
            return Response(self.describe_as, media_type="application/json")
        return JSONResponse({name: value for name, value in found.items() if value is not None})

    async def register(self, request):
        wanted = await request.json()
        client = secrets.token_hex(8)
        self.registered[client] = {**wanted, "client_secret": f"secret/{secrets.token_hex(8)}"}
        return JSONResponse({"client_id": client, **self.registered[client]}, 201)

    async def authorize(self, request):
        asked = dict(request.query_params)
        self.authorized.append(asked)
        known = self.registered.get(asked["client_id"], {})
        assert asked["redirect_uri"] in known["redirect_uris"]
        assert asked["code_challenge_method"] == "S256" and asked["response_type"] == "code"
        account = request.cookies.get("account")
        answer = {"state": asked["state"]}
        if self.iss:
            answer["iss"] = self.url if self.iss is True else self.iss
        if account is None:
            answer["error"] = "access_denied"
        else:
            code = answer["code"] = f"code-{secrets.token_hex(8)}"
            self.codes[code] = asked | {"account": account}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(answer)}", 302)

    def client(self, request, form):
        kind, _, pair = request.headers.get("authorization", "").partition(" ")
        if kind == "Basic":
            name, _, secret = base64.b64decode(pair).decode().partition(":")
            name, secret = unquote(name), unquote(secret)
        else:
            name, secret = form.get("client_id"), form.get("client_secret")
        known = self.registered.get(name)
        return name if known is not None and known["client_secret"] == secret else None

    async def token(self, request):
        form = dict(await request.form())
        self.token_requests.append(form)
        if self.hold is not None:
            await self.hold.wait()
        client = self.client(request, form)
        if client is None:
            return JSONResponse({"error": "invalid_client"}, 401)
        if form["grant_type"] == "refresh_token":
            if self.refuses_refresh:
                return Response(status_code=self.refuses_refresh)
            grant = self.refresh.pop(form["refresh_token"], None)
            if grant is None:  # used twice, revoked, or never given
                self.dead.add(form["refresh_token"].partition("-")[2].partition(".")[0])
                return JSONResponse({"error": "invalid_grant"}, 400)
        else:
            grant = self.codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if grant is None or grant["code_challenge"] != challenge:
                return JSONResponse({"error": "invalid_grant"}, 400)
            assert form["redirect_uri"] == grant["redirect_uri"]
            grant["family"] = secrets.token_hex(8)
        assert client == grant["client_id"] and form["resource"] == grant["resource"]
        return JSONResponse(self.issue(grant))

    def issue(self, grant):
        family = grant["family"]
        if family in self.dead:
            return {"error": "invalid_grant"}
        access = f"access-{family}.{secrets.token_hex(8)}"
        refresh = f"refresh-{family}.{secrets.token_hex(8)}"
        self.access[access] = grant | {"ends": time.time() + self.lives_s}
        self.refresh[refresh] = grant
        return {
            "access_token": access,
            "refresh_token": refresh,
            "token_type": "bearer",
            "expires_in": self.lives_s,
            "scope": grant.get("scope", ""),
        }

    async def revoke(self, request):
        form = dict(await request.form())
        assert self.client(request, form) is not None
        self.revocations.append(form["token"])
        self.end(form["token"])
        return Response(status_code=200)

    def end(self, token):
        """End the grant that a token is of."""
        family = token.partition("-")[2].partition(".")[0]
        self.dead.add(family)
        for kept in (self.access, self.refresh):
            for name in [name for name, grant in kept.items() if grant["family"] == family]:
                del kept[name]

    def of(self, account):
        """The access tokens of an account that are valid now."""
        return [token for token, grant in self.access.items() if grant["account"] == account]


class Protected:
    """Put before a server's class: it answers accounts that bring a token of its own authorization server.

    Attributes:
        paths: Where it is; the first is its resource.
        scopes: What it asks for in its challenge.
        needs: Tool -> scope that it needs.
        resource: Its name in its metadata.
        on_token: Called with each valid token before its request is answered.
        account: Whose the request is that is being answered.
    """

    paths = ("/mcp",)

    def __init__(self, authority):
        super().__init__()
        self.authority = authority
        self.scopes, self.needs = "notes:read", {}
        self.resource, self.on_token = None, None

    def routes(self):
        return [
            Route(f"/.well-known/oauth-protected-resource{self.paths[0]}", self.describe),
            *(Route(path, self.handle, methods=["GET", "POST", "DELETE"]) for path in self.paths),
        ]

    async def describe(self, request):
        return JSONResponse(
            {
                "resource": self.resource or self.url,
                "authorization_servers": [self.authority.url],
                "scopes_supported": ["notes:read"],
            }
        )

    async def handle(self, request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        grant = self.authority.access.get(token)
        if grant is None or grant["ends"] < time.time() or grant["resource"] != self.url:
            return self.challenge(401, f'scope="{self.scopes}"')
        if self.on_token is not None:
            await self.on_token(token)
        body = await request.body()
        for tool, scope in self.needs.items():
            if f'"name":"{tool}"'.encode() in body and scope not in grant["scope"].split():
                return self.challenge(403, f'error="insufficient_scope", scope="{scope}"')
        self.account = grant["account"]
        return await super().handle(request)

    def challenge(self, status, rest):
        path = self.paths[0]
        place = f"{self.url.removesuffix(path)}/.well-known/oauth-protected-resource{path}"
        header = f'Bearer resource_metadata="{place}", {rest}'
        return Response(status_code=status, headers={"WWW-Authenticate": header})


class ProtectedServer(Protected, RecordingServer):
    """Streamable HTTP."""

    def answer(self, message, session):
        if message["method"] == "tools/call" and message["params"]["name"] == "recall":
            content = [{"type": "text", "text": f"you are {self.account}"}]
            return self.json(message, {"content": content})
        return super().answer(message, session)


class ProtectedStream(Protected, SseServer):
    """HTTP with SSE, the transport of 2024-11-05."""

    paths = ("/sse", "/messages")

    def answer(self, session, message):
        if message["method"] == "tools/call" and message["params"]["name"] == "get":
            return {"content": [{"type": "text", "text": f"you are {self.account}"}]}
        return super().answer(session, message)


@asynccontextmanager
async def serving(state, path=""):
    """Serve a state's routes on a free loopback port; it gets its `url`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        state.url = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
        app = Starlette(routes=state.routes())
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        server.capture_signals = nullcontext
        running = asyncio.create_task(server.serve([listener]))
        try:
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield state
        finally:
            server.should_exit = server.force_exit = True
            await running


@asynccontextmanager
async def protected_server(kind=ProtectedServer):
    """Serve both; yields the MCP server, whose `authority` is the authorization server."""
    async with serving(AuthorizationServer()) as authority:
        async with serving(kind(authority), kind.paths[0]) as server:
            yield server
