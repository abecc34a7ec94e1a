"""A database that could not be asked for a while may be an earlier one when it answers again: what it holds is read anew."""

import pytest
from sqlalchemy import text

from mcphub.errors import Unavailable
from tests.interaction.clients import plain, raw_client, request
from tests.polling import until

pytestmark = pytest.mark.anyio
CALL = request("tools/call", {"name": "recall", "arguments": {}})


async def test_a_revocation_counts_though_the_database_that_answers_again_has_the_same_revision(
    hub_of,
):
    """A replica took over that lacks the last change: the revocation gets the number that the hub knows already."""
    async with (
        hub_of({"plain": plain()}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        for client in (alice, bob):
            await client.open()
            assert (await client.post(CALL)).status_code == 200
        db, asked = hub.hub.ground.db, []
        ask = db.revision

        async def gone():
            asked.append(1)
            raise Unavailable("The hub's database cannot be used just now.")

        db.revision = gone
        await until(lambda: asked)
        user = await hub.hub.ground.directory.user("alice")
        async with db.write() as conn:  # no change of the number
            await conn.execute(
                text(f"UPDATE api_keys SET revoked_at = 1 WHERE user_id = '{user.id}'")
            )
        assert await ask() == hub.hub.revision
        db.revision = ask
        await until(lambda: not hub.hub._out_of_sight)
        assert (await alice.post(CALL)).status_code == 401
        assert (await bob.post(CALL)).status_code == 200
