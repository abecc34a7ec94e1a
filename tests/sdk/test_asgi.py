"""The ASGI middleware: an HTTP server of any make knows the user of each JSON-RPC request, or refuses it."""

import json

import httpx2
import pytest

from mcphub_sdk import UserContext, current_user_or_none
from mcphub_sdk.asgi import UserContextMiddleware
from mcphub_sdk.testing import TestHub

pytestmark = pytest.mark.anyio
KEY = "dev.mcphub/user-context"


async def whoever(scope, receive, send):
    """An application that answers with its user and the body that it got."""
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body", False):
            break
    user = current_user_or_none()
    assert scope.get("state", {}).get("mcphub_user") is user
    answer = json.dumps([user.id if user else None, body.decode()]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def hub():
    return TestHub()


@pytest.fixture
async def client(hub):
    app = UserContextMiddleware(whoever, UserContext("refuse", trust=hub.trust), max_body=10_000)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def call(hub, user, **changed):
    params = {"name": "read", "arguments": {"text": "ü"}}
    token = hub.assertion(user, "tools/call", params, **changed)
    params["_meta"] = {KEY: {"assertion": token}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, token


async def test_the_application_sees_the_user_and_the_whole_request(client, hub):
    for user in ("alice", "bob"):
        message, token = call(hub, user)
        answer = await client.post("/mcp", json=message, headers={"X-MCPHub-User-Context": token})
        seen, body = answer.json()
        assert seen == user and json.loads(body) == message


async def test_whoever_proves_nothing_does_not_reach_the_application(client, hub):
    message, token = call(hub, "alice")
    _, other = call(hub, "bob")
    bare = {**message, "params": {"name": "read", "arguments": {}}}
    refused = [
        (4012, bare, {}),
        (4012, bare, {"X-MCPHub-User-Context": token}),  # a header alone is no user
        (4013, message, {"X-MCPHub-User-Context": other}),
        (4013, call(TestHub(), "alice")[0], {}),
        (4013, {**message, "params": {**message["params"], "name": "write"}}, {}),
    ]
    for code, body, headers in refused:
        answer = await client.post("/mcp", json=body, headers=headers)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == code
        assert "alice" not in answer.text
    assert (await client.post("/mcp", json=message)).json()[0] == "alice"  # none of it used it up


async def test_what_is_no_single_message_of_a_sane_size_is_refused(client, hub):
    message, _ = call(hub, "alice")
    for body in (
        b"",
        b"no json",
        b"[]",
        json.dumps([message]).encode(),
        b"[" * 9000,
        b"x" * 20_000,
    ):
        assert (await client.post("/mcp", content=body)).status_code == 400


async def test_openings_lists_and_streams_pass_without_a_user(client):
    for method in ("initialize", "tools/list", "notifications/initialized"):
        message = {"jsonrpc": "2.0", "id": 1, "method": method}
        if method.startswith("notifications"):
            del message["id"]
        assert (await client.post("/mcp", json=message)).json()[0] is None
