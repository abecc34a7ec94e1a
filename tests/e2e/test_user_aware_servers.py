"""Published servers that take each user's credential per request: two users at once, one process.

Each reads a header of every HTTP request. What it calls is a local stand-in that records which
credential arrives with which question.
"""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_plus

import anyio
import httpx2
import pytest
from tests.e2e.servers_under_test import USERS, Team
from tests.packages_fixture import install
from tests.servers.aware_http import free_port

from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]
OPERATORS = "token-of-the-operator"
# Everything that one of the services would say to any question, as far as its clients look at it.
ANSWER = {
    "issues": [], "total": 0, "startAt": 0, "maxResults": 50, "isLast": True,
    "name": "someone", "displayName": "Someone", "accountId": "1",
    "results": [], "success": True, "data": {"web": []},
}  # fmt: skip


@dataclass(frozen=True)
class Aware:
    """A published server that knows its user.

    Attributes:
        package: Launcher and package.
        words: Arguments; `{port}` is where it listens.
        env: Environment; `{api}` is the stand-in. It may hold a token of the operator's, which nobody
            may ever use.
        headers: What the hub sends it.
        tool: A tool, and its arguments for a question.
        prefix: How its service's tokens begin.
    """

    package: tuple[str, str]
    words: tuple[str, ...]
    env: Mapping[str, str]
    headers: Mapping[str, str]
    tool: str
    arguments: Callable[[str], dict[str, object]]
    prefix: str = "token-of-"

    def token(self, user: str) -> str:
        """Return a user's token, in the form of the service."""
        return f"{self.prefix}{user.encode().hex():0<32}"


SERVERS = {
    "atlassian": Aware(
        ("uvx", "mcp-atlassian==0.23.1"),
        ("--transport", "streamable-http", "--port", "{port}", "--host", "127.0.0.1"),
        # without a token it does not offer Jira at all
        {"JIRA_URL": "{api}", "JIRA_PERSONAL_TOKEN": OPERATORS, "NO_PROXY": "127.0.0.1"},
        {"Authorization": "Token ${USER_SERVICE_TOKEN}"},
        "jira_search",
        lambda question: {"jql": f"project = {question}"},
    ),
    "context7": Aware(
        ("npx", "@upstash/context7-mcp@4.1.1"),
        ("--transport", "http", "--port", "{port}"),
        {"CONTEXT7_API_URL": "{api}", "CONTEXT7_API_KEY": OPERATORS},
        {"CONTEXT7_API_KEY": "${USER_SERVICE_TOKEN}"},
        "resolve-library-id",
        lambda question: {"query": question, "libraryName": question},
    ),
    "firecrawl": Aware(
        ("npx", "firecrawl-mcp@3.26.0"),
        (),
        {"FIRECRAWL_API_URL": "{api}", "HTTP_STREAMABLE_SERVER": "true", "PORT": "{port}"},
        {"x-firecrawl-api-key": "${USER_SERVICE_TOKEN}"},
        "firecrawl_search",
        lambda question: {"query": question},
        prefix="fc-",
    ),
}


class Service:
    """Answers everything the same; keeps (authorization, what was asked)."""

    def __enter__(self):
        self.asked = seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                size = int(self.headers.get("Content-Length") or 0)
                text = unquote_plus(self.path) + self.rfile.read(size).decode()
                seen.append((self.headers.get("Authorization", ""), text))
                answer = json.dumps(ANSWER).encode()
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


@asynccontextmanager
async def running(aware, package_store, tmp_path):
    """Run a published server, one process for all; yields (URL, its service)."""
    found = await install(package_store, *aware.package)
    port = free_port()
    with Service() as service, (tmp_path / "log").open("wb") as log:

        def filled(text):
            return text.replace("{port}", str(port)).replace("{api}", service.url)

        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        environment |= {name: filled(text) for name, text in aware.env.items()}
        process = subprocess.Popen(  # noqa: ASYNC220  returns at once
            [*found.argv, *map(filled, aware.words)],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
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
            yield f"http://127.0.0.1:{port}/mcp", service
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SERVERS)
async def test_it_works_for_two_users_at_once_with_their_own_tokens(name, package_store, tmp_path):
    aware = SERVERS[name]
    async with running(aware, package_store, tmp_path) as (url, service):
        entry = {
            "url": url,
            "headers": dict(aware.headers),
            "riskLevel": "critical",
            "groups": ["everyone"],
        }
        users = {user: [] for user in USERS}
        hub = serving_hub(tmp_path / "hub", {name: entry}, users, environ=dict(os.environ))
        async with hub as serving:
            team = Team(serving)
            for user in USERS:
                await team.credential(user, name, "SERVICE_TOKEN", aware.token(user))
            async with team.both(name) as clients:

                async def ask(user, client):
                    for number in range(5):
                        arguments = aware.arguments(f"{user.upper()}{number}")
                        result = await client.call_tool(aware.tool, arguments)
                        assert not result.is_error, result.content

                async with anyio.create_task_group() as group:
                    for user, client in zip(USERS, clients, strict=True):
                        group.start_soon(ask, user, client)
        for user in USERS:
            tokens = {token for token, text in service.asked if user.upper() in text}
            assert tokens == {f"Bearer {aware.token(user)}"}
            assert sum(user.upper() in text for _, text in service.asked) >= 5
        assert OPERATORS not in json.dumps(service.asked)
