"""A real hub per test, and the real `mcp` client."""

import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

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


@pytest.fixture
def hub_of(tmp_path):
    """Make hubs: `async with hub_of({"plain": plain()}) as hub:`; users alice and bob, administrator root."""

    @asynccontextmanager
    async def make(servers, users=None, **more):
        users = users if users is not None else {"alice": ["engineering"], "bob": ["data"]}
        async with serving_hub(
            tmp_path / "hub", servers, users, administrators=["root"], environ=dict(os.environ), **more
        ) as hub:
            yield hub

    return make
