"""A caller that is cancelled at any moment leaves the database whole and usable."""

import asyncio
import contextlib

import anyio
import pytest
from sqlalchemy import func, insert, select

from mcphub.store.database import Database
from mcphub.store.tables import groups

pytestmark = pytest.mark.anyio


async def add_many(db: Database, first: int) -> None:
    async with db.write(changes=True) as conn:
        for n in range(3):
            rows = [{"name": f"g{first}-{n}-{each}"} for each in range(200)]
            await conn.execute(insert(groups), rows)


async def count(db: Database) -> int:
    async with db.read() as conn:
        return (await conn.execute(select(func.count()).select_from(groups))).scalar_one()


@pytest.mark.parametrize("by", ["scope", "task", "twice"])
async def test_cancelled_writers_write_all_or_nothing_and_hold_no_lock(
    db: Database, by: str
) -> None:
    for turn in range(25):
        if by == "scope":
            with anyio.move_on_after(turn * 0.0007):
                await add_many(db, turn)
        else:
            task = asyncio.create_task(add_many(db, turn))
            for _ in range(2 if by == "twice" else 1):
                await asyncio.sleep(turn * 0.0007)
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    with anyio.fail_after(30):
        before = await count(db)
        assert before % 600 == 0
        await add_many(db, 999)
        assert await count(db) == before + 600


async def test_cancelled_readers_give_their_connections_back(db: Database) -> None:
    for turn in range(40):
        with anyio.move_on_after(turn * 0.0003):
            await count(db)
    with anyio.fail_after(30):
        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(count(db))
