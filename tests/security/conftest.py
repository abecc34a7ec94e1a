"""One real hub for each module of `test_rules_*`, with the users alice and bob."""

import os
from collections.abc import AsyncIterator

import pytest

from mcphub.testing.hub import RunningHub, serving_hub

USERS = {"alice": ["engineering"], "bob": ["data"]}


@pytest.fixture(scope="module")
async def hub(
    anyio_backend: object, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningHub]:
    """Serve a hub with the module's SERVERS, its OVERRIDES of settings and its ENVIRON."""
    module = request.module
    async with serving_hub(
        tmp_path_factory.mktemp("hub") / "hub",
        module.SERVERS,
        USERS,
        administrators=["root"],
        environ=dict(os.environ) | getattr(module, "ENVIRON", {}),
        overrides=getattr(module, "OVERRIDES", None),
    ) as running:
        yield running
