"""Published servers as teams enter them in `mcp_settings.json`, and one hub that serves them.

Exact versions; nothing here is secret. `published_hub` shares the package store of the test run and
gives each server its remembered pin, so that a warm run asks no registry.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import httpx2
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from tests.packages_fixture import CACHE, pin_of, store_at

from mcphub.app import ground
from mcphub.secret import Secret
from mcphub.settings import load
from mcphub.testing.github_standin import GitHubStandIn
from mcphub.testing.hub import RunningHub, serving_hub, write_servers

LEGACY, MODERN = "legacy", "2026-07-28"
USERS = ("alice", "bob")
HOME = "${USER_HOME}"
OPERATOR_CANARY = "operator-canary-that-no-server-may-see"


def npx(package, *args, **fields):
    """Entry of an npm server."""
    return _entry("npx", ["-y", package, *args], fields)


def uvx(*words, **fields):
    """Entry of a PyPI server."""
    return _entry("uvx", list(words), fields)


def _entry(command, args, fields):
    entry = {"command": command, "args": args}
    return entry | {"riskLevel": "critical", "groups": ["everyone"]} | fields


MEMORY = npx(
    "@modelcontextprotocol/server-memory@2026.8.31",
    env={"MEMORY_FILE_PATH": f"{HOME}/memory.jsonl"},
)
EVERYTHING = npx(
    "@modelcontextprotocol/server-everything@2026.8.31",
    "stdio",
    env={"API_TOKEN": "${USER_API_TOKEN}"},
)
GITHUB = npx(
    "@modelcontextprotocol/server-github@2025.4.8",
    env={"GITHUB_PERSONAL_ACCESS_TOKEN": "${USER_GITHUB_TOKEN}"},
)
# A library of it runs `npm install` in every call where npm is found, and fails when that fails: it
# finds no npm here, then it works without.
FETCH = uvx("mcp-server-fetch==2026.10.24", "--ignore-robots-txt", env={"PATH": "/nowhere"})

SERVERS = {
    "memory": MEMORY,
    "memory-default": npx("@modelcontextprotocol/server-memory@2026.8.31"),
    "memory-own": npx(
        "@modelcontextprotocol/server-memory@2026.8.31", sandbox={"ownPackage": True}
    ),
    "thinking": npx("@modelcontextprotocol/server-sequential-thinking@2026.8.31"),
    "everything": EVERYTHING,
    "files": npx("@modelcontextprotocol/server-filesystem@2026.8.31", HOME),
    "git": uvx("mcp-server-git==2026.10.19"),
    "git-workdir": npx(
        "@cyanheads/git-mcp-server@2.15.3",
        env={"MCP_TRANSPORT_TYPE": "stdio", "GIT_BASE_DIR": HOME},
    ),
    "time": uvx("mcp-server-time==2026.10.19", "--local-timezone", "UTC", riskLevel="medium"),
    "time-banner": npx("time-mcp@1.0.6", riskLevel="medium"),
    "calculator": uvx("mcp-server-calculator==0.2.1", riskLevel="medium"),
    "tasks": npx(
        "@kazuph/mcp-taskmanager@1.1.1", env={"TASK_MANAGER_FILE_PATH": f"{HOME}/tasks.json"}
    ),
    "bank": npx("@allpepper/memory-bank-mcp@0.2.2", env={"MEMORY_BANK_ROOT": f"{HOME}/bank"}),
    "sqlite": uvx("--with", "mcp<2", "mcp-server-sqlite==2025.4.25", "--db-path", f"{HOME}/t.db"),
    "duckdb": uvx("--with", "mcp<2", "mcp-server-duckdb==1.1.0", "--db-path", f"{HOME}/t.duckdb"),
    "python": uvx("--with", "mcp<2", "mcp-python-interpreter==1.2.3", "--dir", HOME),
    "word": uvx("--from", "office-word-mcp-server==1.1.11", "word_mcp_server"),
    "commander": npx(
        "@wonderwhy-er/desktop-commander@0.2.52",
        env={"DESKTOP_COMMANDER_DISABLE_TELEMETRY": "1"},
    ),
    "gitlab": npx(
        "@modelcontextprotocol/server-gitlab@2025.4.25",
        env={"GITLAB_PERSONAL_ACCESS_TOKEN": "${USER_GITLAB_TOKEN}"},
    ),
}


def canary():
    """Return a word that occurs nowhere else; it survives slugs, JSON and case folding."""
    return "k" + secrets.token_hex(10)


@dataclass(slots=True)
class Team:
    """A hub that serves published servers to alice and bob; `github` is the API's stand-in."""

    running: RunningHub
    github: GitHubStandIn | None = None

    @property
    def hub(self):
        """The hub itself."""
        return self.running.hub

    @property
    def url(self):
        """Where it listens."""
        return self.running.url

    def headers(self, user):
        """Return the headers that prove a user."""
        return self.running.headers(user)

    async def home(self, user, server):
        """Return the host path of a user's home for a server."""
        principal = await self.hub.ground.directory.principal_of(user)
        return self.hub.launcher.home(principal.user_id, server)

    async def credential(self, user, server, slot, value):
        """Set a credential as its owner."""
        principal = await self.hub.ground.directory.principal_of(user)
        await self.hub.ground.vault.put(principal, server, slot, Secret(value))
        await self.hub.refresh()

    @asynccontextmanager
    async def connected(self, user, server, mode=LEGACY, **options):
        """Connect the real `mcp` client as a user; at most two minutes for all that is done."""
        with anyio.fail_after(120):
            async with httpx2.AsyncClient(headers=self.headers(user), timeout=100) as http:
                transport = streamable_http_client(f"{self.url}/mcp/{server}", http_client=http)
                async with Client(
                    transport, mode=mode, read_timeout_seconds=100, **options
                ) as client:
                    yield client

    @asynccontextmanager
    async def both(self, server, mode=LEGACY):
        """Connect alice and bob."""
        async with (
            self.connected("alice", server, mode) as alice,
            self.connected("bob", server, mode) as bob,
        ):
            yield alice, bob


async def answer(client, tool, arguments=None):
    """Call a tool; return its text, or what the error says."""
    try:
        result = await client.call_tool(tool, arguments or {})
    except MCPError as error:
        return str(error)
    return "\n".join(getattr(part, "text", "") for part in result.content)


async def must(client, tool, arguments=None):
    """Call a tool that has to succeed; return its text."""
    result = await client.call_tool(tool, arguments or {})
    text = "\n".join(getattr(part, "text", "") for part in result.content)
    assert not result.is_error, text
    return text


async def tools_of(client):
    """Return the names of the tools that a user sees."""
    return {tool.name for tool in (await client.list_tools()).tools}


@asynccontextmanager
async def published_hub(directory: Path, servers: Mapping, *, users=USERS, **more):
    """Serve `servers` to alice and bob once each is installed and its catalog is known."""
    _share_packages(directory)
    environ = dict(os.environ) | {"OPERATOR_CANARY": OPERATOR_CANARY}
    await _pin(directory, servers, environ)
    groups = {user: ["engineering"] for user in users}
    async with serving_hub(directory, servers, groups, environ=environ, **more) as running:
        await running.hub.warm()
        yield Team(running)


async def _pin(directory, servers, environ):
    """Write remembered pins into the hub's store."""
    write_servers(directory, servers)
    store = store_at(CACHE)
    async with ground(load(directory, environ=environ)) as services:
        for name, entry in servers.items():
            if store.requirement(entry["command"], entry["args"]) is None:
                continue  # it is no package
            pin = await pin_of(store, entry["command"], *entry["args"])
            await services.states.set_pin(name, pin)


def _share_packages(directory):
    """Let the hub's package store be the one of the test run."""
    directory.mkdir()
    CACHE.mkdir(parents=True, exist_ok=True)
    (directory / "packages").symlink_to(CACHE)
