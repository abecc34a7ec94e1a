"""Waiting for something that only shows by looking."""

from collections.abc import Callable

import anyio


async def until(holds: Callable[[], object], seconds: float = 20) -> None:
    """Look again and again until `holds` gives something true; fail after `seconds`."""
    with anyio.fail_after(seconds):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.01)
