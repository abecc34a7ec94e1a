"""A sandbox for the variants."""

import pytest

from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings


@pytest.fixture
async def spawner(tmp_path_factory):
    async with SandboxedSpawner(SandboxSettings(tmp_path_factory.mktemp("run"))) as spawner:
        assert spawner.level, spawner.problem
        yield spawner
