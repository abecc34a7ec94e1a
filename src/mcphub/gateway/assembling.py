"""Long lists are put together in steps, and those of one user one after another.

A list of thousands of items takes milliseconds in which nobody else is answered. In steps, others' calls
take turns; one list of a user at a time, so that who lists in a loop has one turn and not one for each call.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from weakref import WeakValueDictionary

_STEP: Final = 64
"""Items in one turn: some 0.3 ms."""
_From = TypeVar("_From")
_To = TypeVar("_To")


class OneAtATime:
    """Lets each user do one thing at a time; users do not wait for each other."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, user_id: str, length: int) -> AsyncIterator[None]:
        """Wait until the user's others are done; what has no more than a step of items does not wait."""
        if length <= _STEP:
            yield
            return
        lock = self._turns.get(user_id)
        if lock is None:
            lock = self._turns[user_id] = asyncio.Lock()
        async with lock:
            yield


async def each(function: Callable[[_From], _To], values: Iterable[_From]) -> list[_To]:
    """Return what a function gives for each value, in steps."""
    found: list[_To] = []
    for number, value in enumerate(values, 1):
        found.append(function(value))
        if number % _STEP == 0:
            await asyncio.sleep(0)
    return found
