"""Fixtures for every test."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run on asyncio with uvloop, as the hub does."""
    return "asyncio", {"use_uvloop": True}
