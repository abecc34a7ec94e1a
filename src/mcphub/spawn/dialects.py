"""Which dialect each server speaks: learned once per exact version, remembered across restarts.

A server is probed for it when nothing is known, or when what is known proves wrong (`spawn.opening`). It
proves wrong too when a server that speaks both eras fails a call because its tool asks its client by a
request of its own, which the modern era does not have: it is spoken to in the legacy era from then on.
What a call fails with may be a text that its user chose, so it counts for that user; for everybody once
an administrator or a second user has met it.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.versions import kept_as
from mcphub.errors import HubError
from mcphub.spawn.launching import SHARED
from mcphub.wire.codes import Dialect

_ASKED_IN_VAIN: Final = re.compile(
    # the Python SDK, 2; FastMCP, 4; the TypeScript SDK, 2
    rb"no back-channel for server-initiated requests"
    rb"|via server-initiated requests is unavailable on"
    rb"|Server-to-client requests are not available on protocol revision"
)
_MOST: Final = 64 * 1024
_ENOUGH: Final = 2
"""Users who have met it."""
_log = structlog.get_logger()


def asked_in_vain(said: bytes) -> bool:
    """Whether a modern server failed a call because it asks its client in the legacy way only.

    Args:
        said: The error, or the result of a tool that failed.
    """
    return _ASKED_IN_VAIN.search(said[:_MOST]) is not None


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
        self._in_vain: dict[tuple[str, str], dict[str, float]] = {}

    async def known(self, spec: ServerSpec, owner: str) -> Dialect | None:
        """Return the dialect of what a spec runs or reaches, for an instance's owner, or None."""
        if owner in self._asked(spec):
            return Dialect.LEGACY
        key = await self._key(spec)
        found = self._known.get(key)
        if found is None:
            found = await self._states.dialect(*key)
            if found is not None:
                self._known[key] = found
        return found

    async def learn(self, spec: ServerSpec, owner: str, dialect: Dialect) -> None:
        """Remember a dialect that an owner's instance was opened in."""
        if dialect is not Dialect.LEGACY or owner not in self._asked(spec):
            await self._keep(spec, dialect)

    def may_return(self, spec: ServerSpec, owner: str, started_at: float) -> bool:
        """Whether a server may be spoken to in the legacy era instead.

        Not where the settings say which era, nor when that was tried before an instance started that is
        modern all the same, nor by a user's call for an instance that others have too.

        Args:
            spec: The server.
            owner: Of the instance that asked in vain.
            started_at: When it started, in the loop's seconds.
        """
        if spec.dialect is not None or owner == SHARED:
            return False
        returned = self._asked(spec).get(owner)
        return returned is None or started_at < returned

    async def go_back(self, spec: ServerSpec, owner: str, now: float, *, is_admin: bool) -> None:
        """Speak to a server in the legacy era from the owner's next start on; `may_return` said that it may be.

        Args:
            spec: The server.
            owner: Of the instance that asked in vain.
            now: The loop's seconds.
            is_admin: The owner administers the hub; then it counts for everybody.
        """
        asked = self._in_vain.setdefault((spec.name, spec.revision), {})
        if owner not in asked:
            asked[owner] = now
            _log.info("server.asks_in_legacy_era", server=spec.name, user=owner)
            if is_admin or len(asked) == _ENOUGH:
                await self._keep(spec, Dialect.LEGACY)

    def _asked(self, spec: ServerSpec) -> Mapping[str, float]:
        """Return whose instances asked in vain, and when that was seen."""
        return self._in_vain.get((spec.name, spec.revision), {})

    async def _keep(self, spec: ServerSpec, dialect: Dialect) -> None:
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
        return spec.name, kept_as(spec, await self._versions.version(spec))
