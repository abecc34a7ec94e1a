"""One real hub for each module that names its SERVERS."""

import os

import pytest

from mcphub.testing.hub import serving_hub


@pytest.fixture(scope="module")
async def hub(anyio_backend, request, tmp_path_factory):
    """Serve a hub with the module's SERVERS to alice and bob."""
    async with serving_hub(
        tmp_path_factory.mktemp("hub") / "hub",
        request.module.SERVERS,
        {"alice": ["engineering"], "bob": ["data"]},
        administrators=["root"],
        environ=dict(os.environ),
    ) as running:
        yield running
