"""A database may be an earlier one when it is asked next, as after a failover: what the hub knows of its past is void."""

import pytest
import structlog
from sqlalchemy import text

from mcphub.errors import Unavailable
from tests.interaction.clients import plain, raw_client, request
from tests.polling import until

pytestmark = pytest.mark.anyio
CALL = request("tools/call", {"name": "recall", "arguments": {}})


@pytest.mark.parametrize("more", [0, 3], ids=["same number", "greater number"])
async def test_a_revocation_counts_in_a_database_that_took_over_without_the_last_changes(
    hub_of, more
):
    """Nothing fails on the way: the other database gives the number that the hub knows to another change."""
    async with (
        hub_of({"plain": plain()}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        for client in (alice, bob):
            await client.open()
            assert (await client.post(CALL)).status_code == 200
        ground, known = hub.hub.ground, hub.hub.revision
        bobs = await ground.directory.user("bob")
        before = {one.id for one in hub.hub.pool.instances() if one.owner.startswith("u_")}
        assert len(before) == 2
        async with ground.db.write() as conn:  # all that such a database says of its revisions
            await conn.execute(text("DELETE FROM changes"))
            for number in range(known.number, known.number + more + 1):
                told = {"number": number, "mark": f"m{number}", "user": bobs.id}
                await conn.execute(text("INSERT INTO changes VALUES (:number, :mark, :user)"), told)
            await conn.execute(
                text("UPDATE meta SET revision = :number, mark = :mark"),
                {"number": number, "mark": f"m{number}"},
            )
            await conn.execute(
                text("UPDATE api_keys SET revoked_at = 1 WHERE user_id <> :bob"), {"bob": bobs.id}
            )
        await until(lambda: hub.hub.revision != known)
        assert (await alice.post(CALL)).status_code == 401
        assert (await bob.post(CALL)).status_code == 200
        await until(lambda: not before & {one.id for one in hub.hub.pool.instances()})


async def test_what_takes_no_database_goes_on_while_it_does_not_answer_and_that_is_told(
    hub_of, monkeypatch
):
    """The hub hangs at the database, as at one that is stopped; an what is idle still ends."""
    monkeypatch.setattr("mcphub.hub._SILENT_S", 0.5)
    async with (
        hub_of({"plain": plain()}) as hub,
        raw_client(hub, "alice") as alice,
        raw_client(hub, "bob") as bob,
    ):
        for client in (alice, bob):
            await client.open()
        db, asked, swept = hub.hub.ground.db, [], []
        ask, sweep = db.revision, hub.hub.sessions.sweep

        async def hangs():
            asked.append(1)
            await until(lambda: not asked)
            raise Unavailable("The hub's database does not answer.")

        monkeypatch.setattr(hub.hub.sessions, "sweep", lambda: (swept.append(1), sweep()))
        with structlog.testing.capture_logs() as logs:
            db.revision = hangs
            await until(lambda: asked)
            swept.clear()
            await until(lambda: len(swept) > 1)
            await until(lambda: any(line["event"] == "database.silent" for line in logs))
            assert hub.hub.status()["databaseSilentS"] >= 1
            for client in (alice, bob):
                assert (await client.post(CALL)).status_code == 200
            db.revision = ask
            asked.clear()
            await until(lambda: any(line["event"] == "database.answers_again" for line in logs))
        assert hub.hub.status()["databaseSilentS"] == 0
