"""One real hub for each module of `test_rules_*`, with the users alice and bob."""

import os
from collections.abc import AsyncIterator

import pytest
from tests.doors import through

from mcphub.testing.hub import RunningHub, serving_hub

USERS = {"alice": ["engineering"], "bob": ["data"]}


@pytest.fixture(scope="module")
def fast_lane() -> bool:
    """Through which door; a module with `BOTH_DOORS` runs through both."""
    return True


@pytest.fixture(scope="module")
async def hub(
    anyio_backend: object,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    fast_lane: bool,
) -> AsyncIterator[RunningHub]:
    """Serve a hub with the module's SERVERS, its OVERRIDES of settings and its ENVIRON."""
    module = request.module
    async with serving_hub(
        tmp_path_factory.mktemp("hub") / "hub",
        module.SERVERS,
        USERS,
        administrators=["root"],
        environ=dict(os.environ) | getattr(module, "ENVIRON", {}),
        overrides=through(fast_lane, getattr(module, "OVERRIDES", None)),
    ) as running:
        yield running
