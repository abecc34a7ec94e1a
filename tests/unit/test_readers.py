"""Large bodies of one user are read one step a turn, however many there are; users do not wait for each other."""

import asyncio

import anyio
import pytest

from mcphub.gateway.shares import Readers

pytestmark = pytest.mark.anyio


class Body:
    """Takes some steps, and notes in which turn of the loop each was."""

    def __init__(self, turns, steps=5, slow_s=0.0):
        self.turns, self.left, self.slow_s = turns, steps, slow_s

    def read(self):
        self.turns.append(self.turns.now)
        self.left -= 1
        loop = asyncio.get_running_loop()
        until = loop.time() + self.slow_s
        while loop.time() < until:
            pass
        return self.left <= 0


class Turns(list):
    now = 0

    async def count(self):
        while True:
            self.now += 1
            await asyncio.sleep(0)


async def read(readers, bodies):
    """Read bodies of users at the same time."""
    async with anyio.create_task_group() as group:
        for user, body in bodies:
            group.start_soon(readers.of(user).catch_up, body)


async def test_a_turn_has_one_step_of_each_user():
    turns = {user: Turns() for user in ("alice", "bob")}
    async with anyio.create_task_group() as counting:
        for each in turns.values():
            counting.start_soon(each.count)
        await read(Readers(), [(user, Body(turns[user])) for user in [*turns] * 4])
        counting.cancel_scope.cancel()
    for each in turns.values():
        assert len(each) == 20
        assert len(set(each)) == 20
    assert abs(turns["alice"][-1] - turns["bob"][-1]) <= 2


async def test_who_has_used_up_the_share_waits_and_others_do_not():
    readers, turns = Readers(), Turns()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await readers.of("alice").catch_up(Body(turns, 3, slow_s=0.15))  # a quarter of a second is free
    used = loop.time() - began
    assert used > 0.9  # to 0.95 s: three quarters of the time are waited for
    began = loop.time()
    await readers.of("alice").catch_up(Body(turns, 1, slow_s=0.05))  # known still, without a body
    assert loop.time() - began > 0.1
    began = loop.time()
    await readers.of("bob").catch_up(Body(turns, 3))
    assert loop.time() - began < 0.1
