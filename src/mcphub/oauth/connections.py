"""Live connections: the access token of one user for one server, fresh whenever it is asked for.

All of a user's instances of a server share one `Connection`, so a refresh happens once however many
calls wait for it, and what it gives is stored before it is used (rule R16). A connection is found by
its permit's user and server alone (rule R5). Implements `upstream.http1.Bearer`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

import structlog

from mcphub.errors import HubError, MissingCredential, Unavailable
from mcphub.oauth import failing, grants
from mcphub.oauth.discovery import challenge_of, union
from mcphub.oauth.grants import Grant
from mcphub.oauth.keeping import GrantStore
from mcphub.policy.model import Permit
from mcphub.secret import OAUTH_SLOT, Secret
from mcphub.tasks import Tasks

_log = structlog.get_logger()
_MAX_WANTED: Final = 10_000


class Connections:
    """The connections of one hub.

    Args:
        store: Grants at rest.
        tasks: Where refreshes run; a caller that gives up stops none.
        hub_url: URL of the hub, for next steps.
        changed: Makes the hub's memory follow the database: a grant was stored or deleted.
    """

    def __init__(
        self,
        store: GrantStore,
        tasks: Tasks,
        hub_url: Callable[[], str],
        changed: Callable[[], Awaitable[object]],
    ) -> None:
        self.store, self.tasks, self.hub_url, self.changed = store, tasks, hub_url, changed
        self._open: WeakValueDictionary[tuple[str, str], Connection] = WeakValueDictionary()
        self._wanted: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()

    async def bearer(self, permit: Permit) -> "Connection":
        """Return the connection of exactly the permit's user to its server.

        Raises:
            MissingSlots: The user has not connected.
        """
        key = (permit.principal.user_id, permit.server)
        connection = self._open.get(key)
        if connection is None:
            connection = self._open[key] = Connection(self, permit)
        await connection.load()
        return connection

    def wanted(self, user_id: str, server: str) -> tuple[str, ...]:
        """Return the scopes that calls of a user were refused for."""
        return self._wanted.get((user_id, server), ())

    def want(self, user_id: str, server: str, scopes: tuple[str, ...]) -> None:
        """Remember scopes for the next time that the user connects."""
        key = (user_id, server)
        self._wanted[key] = union(self._wanted.pop(key, ()), scopes)
        if len(self._wanted) > _MAX_WANTED:
            self._wanted.popitem(last=False)

    def satisfied(self, user_id: str, server: str) -> None:
        """Forget them: the user has connected."""
        self._wanted.pop((user_id, server), None)


class Connection:
    """One user's connection to one server; see the module.

    Life cycle: `load()` before the first use, and whenever an instance starts.
    """

    def __init__(self, connections: Connections, permit: Permit) -> None:
        self._all, self._permit = connections, permit
        self._grant: Grant | None = None
        self._text = Secret("")
        self._unkept: tuple[Secret, Grant] | None = None
        self._renewal: asyncio.Future[None] | None = None
        self._lock = asyncio.Lock()  # what is read must not be older than what a refresh wrote

    def __repr__(self) -> str:
        return f"Connection({self._permit.server!r})"

    async def load(self) -> None:
        """Take what is stored now, once no refresh is on its way. Raises as `GrantStore.stored`."""
        async with self._lock:
            self._grant, self._text = await self._all.store.stored(self._permit)

    async def token(self) -> Secret:
        """Return an access token that is valid for a moment at least.

        Raises:
            MissingCredential: Only the user can make another one.
            HubError: The authorization server does not answer.
        """
        if self._renewal is not None or not self._now.is_fresh(self._all.store.clock()):
            await self._renewed()
        return self._now.access

    async def refused(self, token: Secret, status: int, challenges: tuple[str, ...]) -> bool:
        """Take that the server refused a token; whether to try again with another one.

        Raises:
            MissingCredential: Only the user can change it: by connecting anew, or with more rights.
            HubError: The authorization server does not answer.
        """
        challenge = challenge_of(challenges)
        if status == 403:
            if challenge.error != "insufficient_scope":
                return False
            user_id, server = self._permit.principal.user_id, self._permit.server
            self._all.want(user_id, server, union(self._now.scopes, challenge.scopes))
            raise failing.more_needed(self._all.hub_url(), server, challenge.scopes)
        if self._now.access == token:
            await self._renewed()
        return True

    def rejected(self) -> MissingCredential:
        """Return the error for a token that is refused although it is new."""
        return failing.not_connected(self._all.hub_url(), self._permit.server)

    @property
    def _now(self) -> Grant:
        if self._grant is None:
            raise self.rejected()
        return self._grant

    async def _renewed(self) -> None:
        """Wait for the one refresh that runs; start it when none does."""
        if self._renewal is None:
            self._renewal = asyncio.get_running_loop().create_future()
            self._all.tasks.start("oauth.refresh", self._renew(self._renewal))
        await asyncio.shield(self._renewal)

    async def _renew(self, done: "asyncio.Future[None]") -> None:
        try:
            async with self._lock:
                await self._take_new(self._now)
            done.set_result(None)
        except HubError as error:
            done.set_exception(error)
        finally:
            self._renewal = None
            if not done.done():  # whatever it was: the old token is no new one
                done.set_exception(Unavailable("The hub could not renew your authorization."))
            done.exception()  # those who waited may be gone

    async def _take_new(self, grant: Grant) -> None:
        """Refresh a grant, store what comes and only then use it.

        What came and could not be stored is kept for the next time: to ask again with a refresh token that was
        used ends the grant at an issuer that rotates them.
        """
        store, server = self._all.store, self._permit.server
        secret = store.secret(server, grant.client)
        try:
            if store.spec(server) is None:
                raise failing.GrantDead
            new = self._unkept_of(self._text) or await grants.refreshed(
                store.fetcher(server), grant, secret, store.clock()
            )
        except failing.GrantDead:
            await self._over()
            raise self.rejected() from None
        self._unkept = (self._text, new)
        text = new.sealed()
        if not await store.vault.renew(self._permit, OAUTH_SLOT, self._text, text):
            # its user connected anew or disconnected meanwhile: what is stored counts
            self._grant = self._unkept = None
            try:
                self._grant, self._text = await store.stored(self._permit)
            except MissingCredential:
                await store.revoke(server, new)  # the issuer may not count it to what was revoked
                raise
            return
        self._grant, self._text, self._unkept = new, text, None

    def _unkept_of(self, text: Secret) -> Grant | None:
        """Return what a refresh of exactly this grant gave and nobody could store yet."""
        return self._unkept[1] if self._unkept is not None and self._unkept[0] == text else None

    async def _over(self) -> None:
        """Forget a grant that its issuer has ended, unless its user has made another meanwhile."""
        self._grant = None
        user_id, server = self._permit.principal.user_id, self._permit.server
        try:
            _, text = await self._all.store.stored(self._permit)
        except MissingCredential:
            return
        if text == self._text:
            await self._all.store.forget(user_id, server, "hub")
            _log.info("oauth.ended", user=user_id, server=server)
            await self._all.changed()
