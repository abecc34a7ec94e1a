"""Starts the private stand-ins for the databases that a launch line names."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import urlsplit

from mcphub.errors import Unavailable
from mcphub.isolation.backends import Backend
from mcphub.isolation.backends.detect import MARIADB, POSTGRES, REDIS, Need
from mcphub.isolation.backends.guarded import DidNotStart, NotInstalled
from mcphub.isolation.backends.mariadb import private_mariadb
from mcphub.isolation.backends.postgres import private_postgres
from mcphub.isolation.backends.redis import private_redis
from mcphub.isolation.credentials import Credential


async def started(
    stack: contextlib.AsyncExitStack,
    needs: Sequence[Need],
    directory: Path,
    credentials: Sequence[Credential],
) -> list[Backend]:
    """Start what is needed; it ends with the stack.

    Raises:
        Unavailable: A database is not installed here, or does not start.
    """
    found: list[Backend] = []
    for number, need in enumerate(needs):
        place = directory / f"backend{number}"
        place.mkdir()
        try:
            url = await _entered(stack, lambda n=need, p=place: _server(n, p))
        except (NotInstalled, DidNotStart, ValueError) as error:
            raise Unavailable(
                f"The {need.kind} that the server needs cannot be started: {str(error)[:300]}",
                hint="`scripts/setup test databases` installs PostgreSQL, MariaDB and Redis.",
            ) from None
        parts = urlsplit(url)
        label = next(
            (c.label for c in credentials if need.password and c.value == need.password), ""
        )
        named, real = f"{need.host}:{need.port}", f"{parts.hostname}:{parts.port}"
        found.append(Backend(need.kind, named, real, label))
    return found


def _server(need: Need, place: Path) -> AbstractContextManager[str]:
    if need.kind == POSTGRES:
        return private_postgres(
            place,
            user=need.user or "postgres",
            password=need.password,
            database=need.database or "postgres",
        )
    if need.kind == MARIADB:
        return private_mariadb(
            place, user=need.user or "app", password=need.password, database=need.database or "app"
        )
    assert need.kind == REDIS
    return private_redis(place, password=need.password)


async def _entered(
    stack: contextlib.AsyncExitStack, make: Callable[[], AbstractContextManager[str]]
) -> str:
    """Enter a blocking context manager in a thread, and leave it in one at the end."""
    manager = make()
    url = await asyncio.to_thread(manager.__enter__)

    async def leave() -> None:
        await asyncio.to_thread(manager.__exit__, None, None, None)

    stack.push_async_callback(leave)
    return url
