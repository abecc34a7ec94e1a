"""Tests of a user-aware server: run it as users of a hub of your own, and prove that they do not interfere.

    hub = TestHub(audience="urn:example:notes")
    server = user_aware(make_notes(), without_user="refuse", trust=hub.trust)
    async with hub.client(server) as client:
        await client.as_user("alice").call_tool("remember", {"text": "hers"})

`assert_non_interference` does the whole check: what one user writes must not change anything that the
other one sees.
"""

import base64
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mcp import Client
from mcp.shared.exceptions import MCPError

from mcphub_sdk.canonical import request_digest
from mcphub_sdk.context import EXTENSION
from mcphub_sdk.verifying import ALGORITHM, TYPE

Call = tuple[str, Mapping[str, Any]]
"""A tool and its arguments."""


@dataclass(slots=True)
class TestHub:
    """A hub's half of the user context, with a key made for this test.

    Attributes:
        issuer, audience: As in the assertions.
        clock: Epoch seconds.
    """

    __test__ = False  # for pytest: a class to use, no tests

    audience: str = "urn:example:server-under-test"
    issuer: str = "urn:example:test-hub"
    clock: Callable[[], float] = time.time  # noqa: TID251  the default of what is passed in
    _key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate, repr=False)
    _ids: "itertools.count[int]" = field(default_factory=itertools.count, repr=False)

    @property
    def jwks(self) -> dict[str, Any]:
        """The hub's public keys."""
        raw = self._key.public_key().public_bytes_raw()
        x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        return {
            "keys": [
                {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "t", "x": x}
            ]
        }

    @property
    def trust(self) -> dict[str, Any]:
        """What `user_aware(trust=…)` takes."""
        return {"issuer": self.issuer, "audience": self.audience, "jwks": self.jwks}

    def assertion(self, user: str, method: str, params: Mapping[str, Any], **changed: Any) -> str:
        """Return a signed assertion; `changed` replaces claims, to test what a server refuses."""
        now = int(self.clock())
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.audience,
            "iat": now,
            "exp": now + 60,
            "jti": f"test-{next(self._ids)}-{secrets.token_hex(4)}",
            "request": {"method": method, "digest": request_digest(method, params)},
            **changed,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, self._key, ALGORITHM, headers={"typ": TYPE, "kid": "t"})

    @asynccontextmanager
    async def client(self, server: Any, mode: str = "legacy") -> AsyncIterator["Users"]:
        """Connect to a server in this process; yields what calls it as any user.

        Args:
            server: `MCPServer`, low-level `Server` or `FastMCP`.
            mode: `legacy` or a modern protocol version.
        """
        async with Client(getattr(server, "_mcp_server", server), mode=mode) as client:
            yield Users(self, client)


@dataclass(frozen=True, slots=True)
class Users:
    """One connection to a server, over which requests of any user travel, as from a hub."""

    hub: TestHub
    client: Client

    def as_user(self, user: str, **claims: Any) -> "AsUser":
        """Return what calls the server as a user; claims are for groups, permissions and so on."""
        return AsUser(self, user, claims)

    async def anonymously(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Call a tool without a user context."""
        return await self.client.call_tool(tool, dict(arguments or {}))


@dataclass(frozen=True, slots=True)
class AsUser:
    """Calls of one user."""

    _users: Users
    user: str
    _claims: Mapping[str, Any]

    async def call_tool(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Call a tool; returns the SDK's result."""
        params = {"name": tool, "arguments": dict(arguments or {})}
        return await self._users.client.call_tool(
            tool, params["arguments"], meta=self.meta("tools/call", params)
        )

    async def text_of(self, tool: str, arguments: Mapping[str, Any] | None = None) -> str:
        """Call a tool; returns the text of its result, whether it failed or not."""
        try:
            result = await self.call_tool(tool, arguments)
        except MCPError as error:
            return f"error: {error.message}"
        return "\n".join(getattr(part, "text", "") for part in result.content)

    async def read_resource(self, uri: str) -> Any:
        """Read a resource."""
        return await self._users.client.read_resource(
            uri, meta=self.meta("resources/read", {"uri": uri}), cache_mode="bypass"
        )

    async def get_prompt(self, name: str, arguments: Mapping[str, str] | None = None) -> Any:
        """Get a prompt."""
        params: dict[str, Any] = {"name": name}
        if arguments is not None:
            params["arguments"] = dict(arguments)
        return await self._users.client.get_prompt(
            name, params.get("arguments"), meta=self.meta("prompts/get", params)
        )

    def meta(self, method: str, params: Mapping[str, Any]) -> Any:
        """Return the `_meta` of a request as a hub would send it."""
        token = self._users.hub.assertion(self.user, method, params, **self._claims)
        return {EXTENSION: {"assertion": token}}


async def assert_non_interference(
    make_server: Callable[[], Any],
    hub: TestHub,
    *,
    writes: Callable[[str], Sequence[Call]],
    reads: Sequence[Call],
    mode: str = "legacy",
) -> None:
    """Assert that nothing which one user writes changes what another one reads.

    Bob's reads are made on a server that only he uses. Then, on a new server, Alice writes first; then
    both write and read at the same time. Bob's reads must be the same each time, and no value of
    Alice may turn up in them; and the other way round.

    Args:
        make_server: Makes a new user-aware server that trusts `hub`.
        hub: Signs the users' requests.
        writes: From a canary text to the calls that store it.
        reads: Calls that show what a user sees; they must be deterministic for one user.
        mode: `legacy` or a modern protocol version.

    Raises:
        AssertionError: They interfere; says which read showed what.
    """
    for writer, reader in (("alice", "bob"), ("bob", "alice")):
        alone = await _seen(make_server(), hub, mode, reader, (), reads)
        again = await _seen(make_server(), hub, mode, reader, (), reads)
        assert alone == again, "the reads differ without another user: they cannot show a leak"
        canary = _canary()
        async with hub.client(make_server(), mode) as users:
            await _all(users.as_user(writer), writes(canary))
            seen = await _all(users.as_user(reader), reads)
        _assert_same(reads, alone, seen, canary, writer, reader)
    own, canary = _canary(), _canary()
    expected = await _seen(make_server(), hub, mode, "bob", writes(own), reads)
    async with hub.client(make_server(), mode) as users:
        seen = await _seen_meanwhile(users, writes(own), reads, writes(canary))
    _assert_same(reads, expected, seen, canary, "alice", "bob")


async def _seen_meanwhile(
    users: Users, writes: Sequence[Call], reads: Sequence[Call], others: Sequence[Call]
) -> list[str]:
    """Return what Bob reads after his writes, while Alice writes."""
    seen: list[str] = []

    async def bob() -> None:
        await _all(users.as_user("bob"), writes)
        seen.extend(await _all(users.as_user("bob"), reads))

    async def alice() -> None:
        for _ in range(5):
            await _all(users.as_user("alice"), others)

    async with anyio.create_task_group() as group:
        group.start_soon(alice)
        group.start_soon(bob)
    return seen


def _canary() -> str:
    return f"canary-{secrets.token_hex(8)}"


async def _seen(
    server: Any,
    hub: TestHub,
    mode: str,
    user: str,
    writes: Sequence[Call],
    reads: Sequence[Call],
) -> list[str]:
    """Return what a user reads, after own writes, on a server that nobody else uses."""
    async with hub.client(server, mode) as users:
        await _all(users.as_user(user), writes)
        return await _all(users.as_user(user), reads)


async def _all(user: AsUser, calls: Sequence[Call]) -> list[str]:
    return [await user.text_of(tool, arguments) for tool, arguments in calls]


def _assert_same(
    reads: Sequence[Call],
    expected: list[str],
    seen: list[str],
    canary: str,
    writer: str,
    reader: str,
) -> None:
    for (tool, _), before, after in zip(reads, expected, seen, strict=True):
        assert canary not in after, f"{tool} shows {reader} what {writer} wrote: {after[:200]!r}"
        assert before == after, (
            f"{tool} shows {reader} something else once {writer} was there: "
            f"{before[:200]!r} became {after[:200]!r}"
        )
