"""Which dialect each server speaks: learned once per exact version, remembered across restarts.

A server is probed for it when nothing is known, or when what is known proves wrong (`spawn.opening`).
"""

from typing import Protocol

import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.errors import HubError
from mcphub.wire.codes import Dialect

_log = structlog.get_logger()


class Versions(Protocol):
    """Says which exact version a spec runs."""

    async def version(self, spec: ServerSpec) -> str:
        """Return the exact version of what a spec runs or reaches."""
        ...


class Dialects:
    """Memory over the store.

    Args:
        states: Keeps dialects across restarts.
        versions: Says which exact version a spec runs.
    """

    def __init__(self, states: ServerStates, versions: Versions) -> None:
        self._states, self._versions = states, versions
        self._known: dict[tuple[str, str], Dialect] = {}

    async def known(self, spec: ServerSpec) -> Dialect | None:
        """Return the dialect of what a spec runs or reaches, or None."""
        key = await self._key(spec)
        found = self._known.get(key)
        if found is None:
            found = await self._states.dialect(*key)
            if found is not None:
                self._known[key] = found
        return found

    async def learn(self, spec: ServerSpec, dialect: Dialect) -> None:
        """Remember a dialect that a server was opened in."""
        key = await self._key(spec)
        if self._known.get(key) is dialect:
            return
        self._known[key] = dialect
        _log.info("server.dialect", server=spec.name, dialect=dialect.value)
        try:
            await self._states.save_dialect(*key, dialect)
        except HubError as error:  # it is only asked again after a restart
            _log.warning("store.unavailable", error=str(error))

    async def _key(self, spec: ServerSpec) -> tuple[str, str]:
        return spec.name, f"{await self._versions.version(spec)}+{spec.revision[:16]}"
