"""The real `mcp` client and a raw one, connected to a hub under test; settings of the plain server."""

import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from mcphub.testing.hub import serving_hub

SERVERS = Path(__file__).parents[1] / "servers"
PYTHON = "/usr/bin/python3"


def plain(**fields):
    """Settings of the plain test server."""
    return {
        "command": PYTHON,
        "args": [str(SERVERS / "plain.py")],
        "groups": ["everyone"],
        "riskLevel": "critical",
        "sandbox": {"readable": [str(SERVERS)], **fields.pop("sandbox", {})},
        **fields,
    }


def scripted(script, **fields):
    """Settings of the test server that plays a script (`tests/servers/scripted.py`)."""
    arguments = [str(SERVERS / "scripted.py"), json.dumps(script)]
    return plain(**{"args": arguments, **fields})


def tools(*names, **more):
    """Definitions of tools."""
    return [{"name": name, "inputSchema": {"type": "object"}, **more} for name in names]


@asynccontextmanager
async def remote_for_everyone(directory, url):
    """Serve a hub whose server `remote` is at a URL and without credentials: for the user root."""
    entry = {"type": "http", "url": url, "groups": ["everyone"], "riskLevel": "critical"}
    async with serving_hub(
        directory, {"remote": entry}, {}, administrators=["root"], environ=dict(os.environ)
    ) as hub:
        yield hub


@asynccontextmanager
async def connected(hub, user, server="plain", mode="legacy", **options):
    """Connect the real `mcp` client as a user; `mode` is `legacy` or a modern version."""
    url = f"{hub.url}/mcp/{server}" if server else f"{hub.url}/mcp"
    async with httpx2.AsyncClient(headers=hub.headers(user), timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client


async def text_of(client, tool, arguments=None, **options):
    """Call a tool and return its text."""
    result = await client.call_tool(tool, arguments or {}, **options)
    return "\n".join(part.text for part in result.content)


class Raw:
    """A client that shows statuses, headers and bytes: one legacy session or modern requests."""

    def __init__(self, http, url):
        self.http, self.url, self.headers = http, url, {}
        self.capabilities = {}

    async def post(self, message, **headers):
        return await self.http.post(
            self.url,
            json=message,
            headers=self.headers | {k.replace("_", "-"): v for k, v in headers.items()},
        )

    async def open(self, version="2025-11-25"):
        answer = await self.post(
            request(
                "initialize",
                {
                    "protocolVersion": version,
                    "capabilities": self.capabilities,
                    "clientInfo": {"name": "raw", "version": "1"},
                },
            )
        )
        if "mcp-session-id" in answer.headers:
            self.headers = {
                "Mcp-Session-Id": answer.headers["mcp-session-id"],
                "MCP-Protocol-Version": version,
            }
        return answer

    async def modern(self, method, params=None, id=1, meta=None, **headers):
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        } | (meta or {})
        params = {**(params or {}), "_meta": meta}
        routing = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
        if "name" in params or "uri" in params:
            routing["Mcp-Name"] = params.get("name", params.get("uri"))
        return await self.http.post(
            self.url,
            json=request(method, params, id),
            headers=routing | {k.replace("_", "-"): v for k, v in headers.items()},
        )


MODERN = "2026-07-28"


def request(method, params=None, id=1):
    """A JSON-RPC request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}


@asynccontextmanager
async def raw_client(hub, user, server="plain", **headers):
    """A raw client of a user, without a session yet."""
    url = f"{hub.url}/mcp/{server}" if server else f"{hub.url}/mcp"
    base = {"Accept": "application/json, text/event-stream", **hub.headers(user), **headers}
    async with httpx2.AsyncClient(headers=base, timeout=30) as http:
        yield Raw(http, url)
