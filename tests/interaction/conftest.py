"""A real hub per test."""

import os
from contextlib import asynccontextmanager

import pytest

from mcphub.testing.hub import serving_hub


@pytest.fixture
def hub_of(tmp_path):
    """Make hubs: `async with hub_of({"plain": plain()}) as hub:`; users alice and bob, administrator root."""

    @asynccontextmanager
    async def make(servers, users=None, **more):
        users = users if users is not None else {"alice": ["engineering"], "bob": ["data"]}
        async with serving_hub(
            tmp_path / "hub",
            servers,
            users,
            administrators=["root"],
            environ=dict(os.environ),
            **more,
        ) as hub:
            yield hub

    return make
