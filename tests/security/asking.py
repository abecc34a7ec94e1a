"""What the tests of the rules say to a hub, and how they look at what it knows."""

import json
from typing import Any

import httpx2
from tests.interaction.clients import Raw, request

from mcphub.secret import Secret
from mcphub.testing.hub import RunningHub


async def set_credential(hub: RunningHub, user: str, server: str, slot: str, value: str) -> None:
    """Set a credential as its owner."""
    principal = await hub.hub.ground.directory.principal_of(user)
    await hub.hub.ground.vault.put(principal, server, slot, Secret(value))
    await hub.hub.refresh()


async def credentials_of(hub: RunningHub, user: str) -> list[tuple[str, str, int]]:
    """Return (server, slot, revision) of what a user has set."""
    principal = await hub.hub.ground.directory.principal_of(user)
    listing = await hub.hub.ground.vault.listing(principal)
    return [(info.server, info.slot, info.revision) for info in listing]


async def call(client: Raw, tool: str, **arguments: Any) -> httpx2.Response:
    """Call a tool in the client's session."""
    return await client.post(request("tools/call", {"name": tool, "arguments": arguments}))


def text_in(answer: httpx2.Response) -> str:
    """Return the text of a tool's result."""
    return answer.json()["result"]["content"][0]["text"]


async def seen_by(client: Raw) -> dict[str, Any]:
    """Return what the caller's own instance knows of itself: pid, home, environment."""
    return json.loads(text_in(await call(client, "who")))
