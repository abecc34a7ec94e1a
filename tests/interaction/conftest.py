"""A real hub per test."""

import os
from contextlib import asynccontextmanager

import pytest

from mcphub.testing.hub import serving_hub
from tests.doors import through
from tests.interaction.accounts import REMOTE, protected
from tests.servers.oauth_http import protected_server


@pytest.fixture(scope="module")
def fast_lane():
    """Through which door; a module with `BOTH_DOORS` runs through both."""
    return True


@pytest.fixture
def hub_of(tmp_path, fast_lane):
    """Make hubs: `async with hub_of({"plain": plain()}) as hub:`; users alice and bob, administrator root."""

    @asynccontextmanager
    async def make(servers, users=None, overrides=None, **more):
        users = users if users is not None else {"alice": ["engineering"], "bob": ["data"]}
        async with serving_hub(
            tmp_path / "hub",
            servers,
            users,
            administrators=["root"],
            environ=dict(os.environ),
            overrides=through(fast_lane, overrides),
            **more,
        ) as hub:
            yield hub

    return make


@pytest.fixture
async def server():
    """A server that requires OAuth. Modules about others have an own one."""
    async with protected_server() as found:
        yield found


@pytest.fixture
async def hub(hub_of, server):
    """A hub in front of it."""
    async with hub_of({REMOTE: protected(server)}) as found:
        yield found
