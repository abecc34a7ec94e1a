"""Grants at rest: each in its user's slot `OAUTH` in the vault, and how one ends.

Used by the hub and by the command line. What is stored or deleted, and the audit event that tells of
it, are one transaction; no authorization server is asked within. Ending a grant deletes it first and
then tells its authorization server, so that nothing depends on a foreign machine being there.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mcphub.audit import log
from mcphub.audit.log import AuditLog
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError
from mcphub.ids import Clock
from mcphub.oauth import grants
from mcphub.oauth.clients import Client
from mcphub.oauth.discovery import covers
from mcphub.oauth.fetching import Fetcher
from mcphub.oauth.grants import Grant
from mcphub.policy.model import Permit, Principal
from mcphub.secret import OAUTH_SLOT, Secret
from mcphub.store.database import Database
from mcphub.vault.vault import MissingSlots, Vault

_REVOKE_S: Final = 5.0
_PORTS: Final = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Ended:
    """Grants of a user that are gone here.

    Attributes:
        revoked: Their authorization server knows.
        kept: It could not be told, or has no way to be: their tokens live until they expire.
    """

    revoked: int = 0
    kept: int = 0


class GrantStore:
    """The users' grants.

    Args:
        db: Where vault and audit log are.
        vault: Where they are sealed.
        audit: Is told when one is made, deleted or revoked.
        specs: The servers now.
        clock: Epoch seconds.
    """

    def __init__(
        self,
        db: Database,
        vault: Vault,
        audit: AuditLog,
        specs: Callable[[], Mapping[str, ServerSpec]],
        clock: Clock,
    ) -> None:
        self.vault, self.clock = vault, clock
        self._db, self._audit, self._specs = db, audit, specs

    def spec(self, server: str) -> ServerSpec | None:
        """Return a server that has OAuth, as it is set up now."""
        try:
            spec = self._specs().get(server)
        except HubError:  # a broken settings file must not keep a grant alive
            return None
        return spec if spec is not None and spec.oauth is not None else None

    def fetcher(self, server: str) -> Fetcher:
        """Return what fetches for a server, with the hosts that its settings name."""
        spec = self.spec(server)
        if spec is None or spec.oauth is None:
            return Fetcher(server)
        own = urlsplit(spec.url)
        origin = f"{own.hostname}:{own.port or _PORTS.get(own.scheme, 0)}"
        named = (host.replace("[", "").replace("]", "") for host in spec.oauth.private_hosts)
        return Fetcher(server, frozenset({origin, *named}))

    def secret(self, server: str, client: Client) -> Secret | None:
        """Return the secret of a client: its own, or that of the settings."""
        if client.secret is not None or client.registered:
            return client.secret
        spec = self.spec(server)
        if spec is None or spec.oauth is None or spec.oauth.client_id != client.id:
            return None
        return spec.oauth.client_secret

    async def stored(self, permit: Permit) -> tuple[Grant, Secret]:
        """Return the grant of exactly the permit's user for its server, and the text that was sealed.

        Raises:
            MissingSlots: There is none, or none for the URL and the issuer that the server has now.
        """
        kept = await self.vault.open_for(permit, (OAUTH_SLOT,))
        text = kept[OAUTH_SLOT]
        grant, spec = Grant.opened(text), self.spec(permit.server)
        if grant is None or spec is None or not _is_for(grant, spec):
            raise MissingSlots(permit.server, (OAUTH_SLOT,))
        return grant, text

    async def keep(self, principal: Principal, server: str, grant: Grant) -> None:
        """Store a grant that its user has just made. Raises as `Vault.put`."""
        user_id = principal.user_id
        detail = {**_of(server), "issuer": grant.issuer}
        async with self._db.together():
            await self.vault.put(principal, server, OAUTH_SLOT, grant.sealed())
            await self._audit.write(user_id, log.CREDENTIAL_SET, user_id, detail)

    async def end(self, user_id: str, server: str, actor: str) -> bool | None:
        """Delete a user's grant and revoke it; whether its issuer knows, None when there was none.

        Args:
            user_id: Opaque id of the user.
            server: Name of the server.
            actor: Who does it, for the audit log.
        """
        text = await self.forget(user_id, server, actor)
        if text is None:
            return None
        revoked = await self._told(server, text)
        if revoked:
            await self._audit.write(actor, log.CREDENTIAL_REVOKED, user_id, _of(server))
        return revoked

    async def forget(self, user_id: str, server: str, actor: str) -> Secret | None:
        """Delete a user's grant and return what was sealed, None when there was none; args as `end`."""
        async with self._db.together():
            text = await self.vault.withdraw(user_id, server, OAUTH_SLOT)
            if text is not None:
                await self._audit.write(actor, log.CREDENTIAL_DELETED, user_id, _of(server))
        return text

    async def revoke(self, server: str, grant: Grant) -> bool:
        """Tell a grant's issuer that it is over; whether the issuer says that it knows."""
        try:
            async with asyncio.timeout(_REVOKE_S):
                secret = self.secret(server, grant.client)
                return await grants.revoked(self.fetcher(server), grant, secret)
        except TimeoutError:
            return False

    async def end_all(self, user_id: str) -> Ended:
        """End all grants of a user; one that its issuer is not there for delays no other.

        The audit log is the caller's business: it is told of the user as a whole.
        """

        async def end(server: str) -> bool | None:
            text = await self.vault.withdraw(user_id, server, OAUTH_SLOT)
            return None if text is None else await self._told(server, text)

        servers = await self.vault.servers_of(user_id, OAUTH_SLOT)
        told = await asyncio.gather(*map(end, servers))
        return Ended(told.count(True), told.count(False))

    async def _told(self, server: str, text: Secret) -> bool:
        grant = Grant.opened(text)
        return grant is not None and await self.revoke(server, grant)


def _of(server: str) -> dict[str, str]:
    """Return what an audit event says of a grant."""
    return {"server": server, "slot": OAUTH_SLOT}


def _is_for(grant: Grant, spec: ServerSpec) -> bool:
    """Whether a grant is for a server as it is set up now."""
    issuer = spec.oauth.issuer if spec.oauth is not None else ""
    return covers(grant.resource, spec.url) and (not issuer or grant.issuer == issuer)
