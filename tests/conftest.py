"""Fixtures for every test."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling, Scheduling

# how fast examples are made says something of the machine and of what else runs on it, nothing of the code
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


class FilesOfServersTogether(LoadScopeScheduling):
    """Deals tests out one by one, but a file of `tests/e2e` as one: its tests share a running hub.

    In place of `--dist=loadgroup`, whose groups this version of pytest does not tell xdist.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] if "e2e/" in nodeid else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Take the place of xdist's scheduler, unless another one is asked for."""
    return FilesOfServersTogether(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Async tests run on asyncio with uvloop, as the hub does."""
    return "asyncio", {"use_uvloop": True}
