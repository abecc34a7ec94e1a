"""A published server that takes each user's credential per request: two users at once, one process.

`mcp-atlassian` over HTTP reads the `Authorization` header of each request. Its Jira is a local
stand-in that records which token arrives with which query.
"""

import asyncio
import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from tests.e2e.servers_under_test import USERS, Team
from tests.packages_fixture import install
from tests.servers.aware_http import free_port

from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
OPERATORS = "token-of-the-operator"
PACKAGE = "mcp-atlassian==0.23.1"


class Jira:
    """Answers every search with nothing found; keeps (authorization, JQL)."""

    def __enter__(self):
        self.searches = seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                query = parse_qs(urlsplit(self.path).query)
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                jql = query.get("jql", [json.loads(body).get("jql", "") if body else ""])[0]
                if jql:
                    seen.append((self.headers.get("Authorization", ""), jql))
                answer = json.dumps(
                    {"issues": [], "total": 0, "startAt": 0, "maxResults": 50, "isLast": True,
                     "name": "someone", "displayName": "Someone", "accountId": "1"}
                ).encode()  # fmt: skip
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET  # noqa: N815  named by http.server

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


@pytest.fixture
async def atlassian(package_store, tmp_path):
    """The published server, one process with a token that nobody may ever use; yields (URL, Jira)."""
    found = await install(package_store, "uvx", PACKAGE)
    port = free_port()
    with Jira() as jira, (tmp_path / "log").open("wb") as log:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "JIRA_URL": jira.url,
            "JIRA_PERSONAL_TOKEN": OPERATORS,  # without one it does not offer Jira at all
            "NO_PROXY": "127.0.0.1",
        }
        words = ["--transport", "streamable-http", "--port", str(port), "--host", "127.0.0.1"]
        process = subprocess.Popen(  # noqa: ASYNC220  returns at once
            [*found.argv, *words], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            with anyio.fail_after(120):
                while True:
                    assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
                    try:
                        async with httpx2.AsyncClient() as http:
                            await http.get(f"http://127.0.0.1:{port}/healthz")
                        break
                    except httpx2.TransportError:
                        await asyncio.sleep(0.1)
            yield f"http://127.0.0.1:{port}/mcp", jira
        finally:
            process.terminate()
            process.wait(30)


async def test_atlassian_works_for_two_users_at_once_with_their_own_tokens(atlassian, tmp_path):
    url, jira = atlassian
    entry = {
        "url": url,
        "headers": {"Authorization": "Token ${USER_JIRA_TOKEN}"},
        "riskLevel": "critical",
        "groups": ["everyone"],
    }
    environ = dict(os.environ)
    users = {user: [] for user in USERS}
    async with serving_hub(tmp_path / "hub", {"jira": entry}, users, environ=environ) as running:
        team = Team(running)
        for user in USERS:
            await team.credential(user, "jira", "JIRA_TOKEN", f"token-of-{user}")
        async with team.both("jira") as clients:

            async def search(user, client):
                for number in range(5):
                    jql = f"project = {user.upper()}{number}"
                    result = await client.call_tool("jira_search", {"jql": jql})
                    assert not result.is_error, result.content

            async with anyio.create_task_group() as group:
                for user, client in zip(USERS, clients, strict=True):
                    group.start_soon(search, user, client)
    for user in USERS:
        tokens = {token for token, jql in jira.searches if user.upper() in jql}
        assert tokens == {f"Bearer token-of-{user}"}
    assert len(jira.searches) >= 10
    assert OPERATORS not in json.dumps(jira.searches)
