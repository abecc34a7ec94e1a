"""What SDKs say when a tool asks its client by a request, on a connection of the modern era, and whom it counts for."""

import pytest

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.ids import system_clock
from mcphub.policy.model import Transport
from mcphub.spawn.dialects import Dialects, asked_in_vain
from mcphub.spawn.launching import SHARED
from mcphub.store.database import Database
from mcphub.wire.codes import Dialect


@pytest.mark.parametrize(
    "said",
    [
        # mcp 2.3, fastmcp 4.2, @modelcontextprotocol/server 2.4
        b"Cannot send 'elicitation/create': this transport context has no back-channel for "
        b"server-initiated requests.",
        b"elicitation via server-initiated requests is unavailable on 2026-07-28 connections.",
        b"Server-to-client requests are not available on protocol revision 2026-07-28: "
        b"'sampling/createMessage' cannot be sent while serving a request on that revision.",
    ],
)
def test_the_texts_of_the_sdks_are_known(said):
    assert asked_in_vain(b'{"result":{"content":[{"type":"text","text":"' + said + b'"}]}}')


@pytest.mark.parametrize("said", [b"", b"The user declined.", b"The channel is not available."])
def test_other_failures_are_none(said):
    assert not asked_in_vain(said)


def server():
    return ServerSpec("asker", "asker", Transport.STDIO, "/bin/cat", revision="r")


class Versions:
    """One version of everything."""

    async def version(self, spec):
        return "1.0"


@pytest.fixture
async def states(tmp_path):
    async with Database.at(f"sqlite:///{tmp_path / 'hub.db'}") as db:
        await db.migrate()
        yield ServerStates(db, system_clock)


@pytest.mark.anyio
async def test_what_one_users_call_fails_with_counts_for_that_user_alone(states):
    """The text may be the user's: a tool that repeats its arguments in an error."""
    spec, dialects = server(), Dialects(states, Versions())
    await dialects.learn(spec, "u_a", Dialect.MODERN)
    assert dialects.may_return(spec, "u_a", started_at=1.0)
    await dialects.go_back(spec, "u_a", 2.0, is_admin=False)
    assert await dialects.known(spec, "u_a") is Dialect.LEGACY
    await dialects.learn(spec, "u_a", Dialect.LEGACY)  # it was opened so
    for other in (dialects, Dialects(states, Versions())):  # now, and after a restart
        assert await other.known(spec, "u_b") is Dialect.MODERN
    # an instance that is modern all the same says nothing any more
    assert not dialects.may_return(spec, "u_a", started_at=3.0)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "met",
    [[("u_a", False), ("u_b", False)], [("u_admin", True)]],
    ids=["two users", "administrator"],
)
async def test_two_users_or_an_administrator_are_enough_for_everybody(states, met):
    spec, dialects = server(), Dialects(states, Versions())
    await dialects.learn(spec, "u_a", Dialect.MODERN)
    for user, is_admin in met:
        await dialects.go_back(spec, user, 2.0, is_admin=is_admin)
    for other in (dialects, Dialects(states, Versions())):
        assert await other.known(spec, "u_c") is Dialect.LEGACY


@pytest.mark.anyio
async def test_one_user_many_times_is_one_user_and_a_shared_instance_is_everybodys(states):
    spec, dialects = server(), Dialects(states, Versions())
    await dialects.learn(spec, "u_a", Dialect.MODERN)
    for _ in range(5):
        await dialects.go_back(spec, "u_a", 2.0, is_admin=False)
    assert await dialects.known(spec, "u_b") is Dialect.MODERN
    assert not dialects.may_return(spec, SHARED, started_at=1.0)
