"""Which dialect each server speaks: learned once per exact version, remembered across restarts.

A server is probed for it when nothing is known, or when what is known proves wrong (`spawn.opening`). It
proves wrong too when a server that speaks both eras fails a call because its tool asks its client by a
request of its own, which the modern era does not have: it is spoken to in the legacy era from then on.
"""

import re
from typing import Final, Protocol

import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.errors import HubError
from mcphub.wire.codes import Dialect

_ASKED_IN_VAIN: Final = re.compile(
    # the Python SDK, 2; FastMCP, 4; the TypeScript SDK, 2
    rb"no back-channel for server-initiated requests"
    rb"|via server-initiated requests is unavailable on"
    rb"|Server-to-client requests are not available on protocol revision"
)
_MOST: Final = 64 * 1024
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
        self._returned: dict[tuple[str, str], float] = {}

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

    def may_return(self, spec: ServerSpec, started_at: float) -> bool:
        """Whether a server may be spoken to in the legacy era instead.

        Not where the settings say which era, nor when that was tried before an instance started that is
        modern all the same.

        Args:
            spec: The server.
            started_at: When the instance started that asked in vain, in the loop's seconds.
        """
        if spec.dialect is not None:
            return False
        returned = self._returned.get((spec.name, spec.revision))
        return returned is None or started_at < returned

    async def go_back(self, spec: ServerSpec, now: float) -> None:
        """Speak to a server in the legacy era from its next start on; `may_return` said that it may be."""
        if self._returned.setdefault((spec.name, spec.revision), now) == now:
            _log.info("server.asks_in_legacy_era", server=spec.name)
            await self.learn(spec, Dialect.LEGACY)

    async def _key(self, spec: ServerSpec) -> tuple[str, str]:
        return spec.name, f"{await self._versions.version(spec)}+{spec.revision[:16]}"
