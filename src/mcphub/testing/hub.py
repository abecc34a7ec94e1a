"""A real hub on a free loopback port, for tests: real store, real sandbox, real HTTP."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcphub.app import serving
from mcphub.ground import ground
from mcphub.hub import Hub
from mcphub.ids import Clock, system_clock
from mcphub.policy.model import Role
from mcphub.settings import HubSettings, load


@dataclass(frozen=True, slots=True)
class RunningHub:
    """A hub that serves, and the API keys of its users by name."""

    hub: Hub
    url: str
    keys: Mapping[str, str]

    def headers(self, user: str) -> dict[str, str]:
        """Return the headers that prove a user."""
        return {"Authorization": f"Bearer {self.keys[user]}"}


def write_servers(directory: Path, servers: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `mcp_settings.json` of a hub."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": servers}))


@asynccontextmanager
async def serving_hub(
    directory: Path,
    servers: Mapping[str, Mapping[str, Any]],
    users: Mapping[str, Sequence[str]],
    *,
    administrators: Sequence[str] = (),
    environ: Mapping[str, str],
    overrides: Mapping[str, Any] | None = None,
    clock: Clock = system_clock,
) -> AsyncIterator[RunningHub]:
    """Make a hub in `directory`, with users (name -> groups), and serve it for the time of the block."""
    write_servers(directory, servers)
    given = dict(overrides or {})
    given["listen"] = {"port": 0, **given.get("listen", {})}
    settings: HubSettings = load(directory, overrides=given, environ=environ)
    async with ground(settings, clock) as services:
        known = {user.name for user in await services.directory.users()}
        groups = set(await services.directory.groups())
        keys: dict[str, str] = {}
        for name in (*users, *administrators):
            if name not in known:
                role = Role.ADMIN if name in administrators else Role.USER
                await services.directory.add_user(name, role)
            for group in users.get(name, ()):
                if group not in groups:
                    await services.directory.add_group(group)
                    groups.add(group)
                await services.directory.join(name, group)
            keys[name] = (await services.directory.create_key(name)).key.reveal()
    async with serving(settings, clock) as hub:
        yield RunningHub(hub, hub.url, keys)
