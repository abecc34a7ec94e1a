"""A published server that takes its secrets from files only, behind the hub: each user acts with the own.

`@gongrzhe/server-gmail-autoauth-mcp` reads `~/.gmail-mcp/gcp-oauth.keys.json` and
`~/.gmail-mcp/credentials.json`, and nothing of a user from its environment.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.e2e.servers_under_test import USERS, answer, must, npx, published_hub, tools_of

from mcphub.testing.certificates import issue_certificate
from mcphub.testing.github_standin import alias

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(900)]

API = "gmail.googleapis.com"
CLIENT = {
    "installed": {
        "client_id": "the-teams-client", "client_secret": "${USER_CLIENT_SECRET}",
        "redirect_uris": ["http://localhost:3000/oauth2callback"],
    }
}  # fmt: skip
FILES = {
    "~/.gmail-mcp/gcp-oauth.keys.json": json.dumps(CLIENT),
    "~/.gmail-mcp/credentials.json": "${USER_GMAIL}",
}


class _Gmail(BaseHTTPRequestHandler):
    """Answers with one label, named by who asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        self.server.seen.append((scheme, token))
        label = {"id": "Label_1", "name": f"of {alias(token)}", "type": "user"}
        body = json.dumps({"labels": [label]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def gmail(tmp_path_factory):
    """The API, over real TLS; yields its port, its authority and the credentials that arrived."""
    certificate = issue_certificate(tmp_path_factory.mktemp("gmail"), API)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gmail)
    server.daemon_threads, server.seen = True, []
    server.socket = certificate.server_context().wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1], certificate.ca_file, server.seen
    server.shutdown()
    server.server_close()
    thread.join(timeout=5)


def authorization(token):
    """What the server's own login would have written into its file."""
    return json.dumps(
        {"access_token": token, "refresh_token": f"refresh-{token}", "token_type": "Bearer",
         "scope": "https://www.googleapis.com/auth/gmail.modify", "expiry_date": 4_102_444_800_000}
    )  # fmt: skip


@pytest.fixture(scope="module")
async def team(gmail, tmp_path_factory):
    port, ca, _ = gmail
    entry = npx(
        "@gongrzhe/server-gmail-autoauth-mcp@1.1.11",
        files=FILES,
        env={"NODE_EXTRA_CA_CERTS": str(ca)},
        sandbox={
            "redirect": {f"{API}:443": f"127.0.0.1:{port}"},
            "readable": [str(ca.parent)],
        },
    )
    async with published_hub(tmp_path_factory.mktemp("files") / "hub", {"gmail": entry}) as team:
        yield team


async def test_each_user_acts_with_the_token_of_the_own_file(team, gmail):
    _, _, seen = gmail
    for user in USERS:
        await team.credential(user, "gmail", "CLIENT_SECRET", f"secret-of-{user}")
        await team.credential(user, "gmail", "GMAIL", authorization(f"token-of-{user}"))
    async with team.both("gmail") as (alice, bob):
        assert "list_email_labels" in await tools_of(bob)
        for name, client in (("alice", alice), ("bob", bob), ("alice", alice)):
            assert alias(f"token-of-{name}") in await must(client, "list_email_labels")
            assert seen[-1] == ("Bearer", f"token-of-{name}")
        home = await team.home("alice", "gmail")
        links = {path.name: path.readlink() for path in (home / ".gmail-mcp").iterdir()}
        assert links == {
            name: Path("/run/mcp/files/.gmail-mcp", name)
            for name in ("credentials.json", "gcp-oauth.keys.json")
        }
        directory = team.hub.ground.settings.dir
        leaks = [
            str(path)
            for path in directory.rglob("*")
            if path.is_file() and not path.is_symlink() and b"token-of-alice" in path.read_bytes()
        ]
        assert not leaks
        await team.credential("alice", "gmail", "GMAIL", authorization("second-token-of-alice"))
        assert alias("second-token-of-alice") in await must(alice, "list_email_labels")
        assert alias("token-of-bob") in await must(bob, "list_email_labels")
        principal = await team.hub.ground.directory.principal_of("alice")
        await team.hub.ground.vault.delete(principal, "gmail", "GMAIL")
        await team.hub.refresh()
        before = len(seen)
        refused = await answer(alice, "list_email_labels")
        assert "mcphub credential set gmail GMAIL --from-file FILE" in refused
        assert len(seen) == before
