"""Fixtures of the tests with published servers."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.e2e.servers_under_test import FETCH, GITHUB, SERVERS, USERS, published_hub
from tests.packages_fixture import package_store

from mcphub.testing.github_standin import HOST, GitHubStandIn

__all__ = ["package_store"]


@pytest.fixture(scope="module")
async def team(tmp_path_factory):
    """One hub per module with every published server, and credentials of both users."""
    place = tmp_path_factory.mktemp("published")
    with GitHubStandIn(place) as github, Website() as port:
        reached = {
            "github": _with(
                GITHUB,
                env={"NODE_EXTRA_CA_CERTS": str(github.ca_file)},
                sandbox={
                    "redirect": {f"{HOST}:443": f"127.0.0.1:{github.port}"},
                    "readable": [str(github.ca_file.parent)],
                },
            ),
            "fetch": _with(FETCH, sandbox={"redirect": {"pages.test:80": f"127.0.0.1:{port}"}}),
        }
        async with published_hub(place / "hub", SERVERS | reached) as team:
            team.github = github
            for user in USERS:
                for server, slot in (
                    ("everything", "API_TOKEN"),
                    ("github", "GITHUB_TOKEN"),
                    ("gitlab", "GITLAB_TOKEN"),
                ):
                    await team.credential(user, server, slot, f"{server}-token-of-{user}")
            yield team


def _with(entry, **fields):
    """Return an entry with more fields; `env` is added to."""
    env = entry.get("env", {}) | fields.pop("env", {})
    return entry | ({"env": env} if env else {}) | fields


class _Page(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"<html><body><p>The page {self.path} exists.</p></body></html>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Website:
    """A small website on a free port of 127.0.0.1."""

    def __enter__(self):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self._server.server_address[1]

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
