"""Tool catalogs: what a server offers, learned once per version from an instance that is nobody's.

A **neutral catalog** is discovered with placeholder credentials, an empty home and no network, so
that a list that many users see cannot hold anyone's data by construction. A server that lists only
with real credentials, or whose lists changed while it runs, is asked through the caller's own
instance; that list lives and dies with the instance. Tool definitions are relayed as bytes.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import msgspec
import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates, StoredCatalog
from mcphub.catalog.versions import kept_as
from mcphub.errors import HubError, Unavailable, UpstreamFailed
from mcphub.gateway.naming import aliases
from mcphub.ids import Clock, steady_clock
from mcphub.policy.model import Transport
from mcphub.spawn.instance import Instance
from mcphub.spawn.pool import InstancePool
from mcphub.spawn.programs import Programs
from mcphub.tasks import Tasks
from mcphub.upstream.outgoing import Outgoing, Tell
from mcphub.upstream.upstream import Upstream
from mcphub.wire import envelope, translate
from mcphub.wire.codes import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, Era
from mcphub.wire.envelope import Members, Message
from mcphub.wire.extensions import ui_resource
from mcphub.wire.parameters import Mirrored, mirrored, usable
from mcphub.wire.pieces import Raw

_log = structlog.get_logger()
_MAX_PAGES: Final = 100
_MAX_BYTES: Final = 32 * 1024 * 1024
_TURN: Final = 200
_LIST_TIMEOUT_S: Final = 30.0
_LONGEST_S: Final = 120.0
"""For all pages of a list: each may come in time, and there may always be another."""
_MAX_FAILURES: Final = 2000
_AGAIN_S: Final = 3600.0
_UNKNOWN: Final = frozenset({METHOD_NOT_FOUND, INVALID_PARAMS, INVALID_REQUEST})
"""How servers say that they have no such list."""


class ListFailed(UpstreamFailed):
    """A server answered a list method with an error."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of list.

    Attributes:
        method: The list's JSON-RPC method.
        member: Member of the result that holds the items.
        key: Member that names an item.
        capability: Capability that a server must declare.
    """

    method: str
    member: str
    key: str
    capability: str


TOOLS: Final = Kind("tools/list", "tools", "name", "tools")
PROMPTS: Final = Kind("prompts/list", "prompts", "name", "prompts")
RESOURCES: Final = Kind("resources/list", "resources", "uri", "resources")
TEMPLATES: Final = Kind("resources/templates/list", "resourceTemplates", "uriTemplate", "resources")
KINDS: Final = {kind.method: kind for kind in (TOOLS, PROMPTS, RESOURCES, TEMPLATES)}


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a list: its name or URI, and its definition as the server wrote it.

    Attributes:
        mirrored: Arguments of a tool that modern clients repeat in headers.
        ui: URI of the page that a tool shows itself with (MCP Apps), or "".
    """

    name: str
    raw: msgspec.Raw
    mirrored: tuple[Mirrored, ...] = ()
    ui: str = ""


class Items(tuple[Item, ...]):
    """One list of a server, and what is looked up in it: gone through once, not by every call."""

    @cached_property
    def names(self) -> frozenset[str]:
        """Names or URIs."""
        return frozenset(item.name for item in self)

    @cached_property
    def pages(self) -> frozenset[str]:
        """URIs of the pages that tools show themselves with."""
        return frozenset(item.ui for item in self if item.ui)

    @cached_property
    def beginnings(self) -> tuple[str, ...]:
        """What is before the first variable of each template, where anything is."""
        heads = (item.name.partition("{")[0] for item in self)
        return tuple(head for head in heads if head)

    @cached_property
    def _aliases(self) -> dict[str, dict[str, str]]:
        return {}

    def aliases(self, server: str) -> dict[str, str]:
        """Return what clients see -> own name, for names that are shown under an alias; `server` is the list's."""
        found = self._aliases.get(server)
        if found is None:
            found = self._aliases[server] = aliases(server, self.names)
        return found


_NONE: Final = Items()


@dataclass(frozen=True, slots=True)
class Offer:
    """What one server offers.

    Attributes:
        initialize: Members of its InitializeResult.
        lists: Items by list method.
        per_user: It has to be asked with the user's own credentials.
        reason: Why, when `per_user`.
    """

    initialize: Members
    lists: dict[str, Items] = field(default_factory=dict)
    per_user: bool = False
    reason: str = ""

    @property
    def capabilities(self) -> Members:
        """Members of the server's capabilities."""
        return envelope.object_of(self.initialize.get("capabilities"))

    @property
    def server_info(self) -> bytes:
        """Raw serverInfo."""
        return bytes(self.initialize.get("serverInfo", b""))


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a user misses a server's lists.

    Attributes:
        reason: A sentence.
        revision: What the user's instance was, or would have been, started with.
        at: When it was found, seconds of a clock that goes on evenly.
    """

    reason: str
    revision: tuple[str, int]
    at: float


class Catalogs:
    """Neutral catalogs of all servers, in memory over the store.

    Args:
        pool: Runs neutral instances.
        programs: Says which exact version a spec runs.
        states: Keeps catalogs across restarts.
        clock: Wall clock: when a catalog was found, which outlives this process.
        tasks: Where catalogs are learned; a caller that waits no longer stops nothing.
        on_late: Told the name of a server whose catalog came when somebody had given up waiting.

    Attributes:
        failures: Why a server's lists are missing, by server and user id or "" for everybody.
        steady: Goes on evenly: how long ago a list failed is no matter of the wall clock.
    """

    def __init__(
        self,
        pool: InstancePool,
        programs: Programs,
        states: ServerStates,
        clock: Clock,
        tasks: Tasks,
        on_late: Callable[[str], None],
    ) -> None:
        self._pool, self._programs, self._states, self._clock = pool, programs, states, clock
        self._tasks, self._on_late = tasks, on_late
        self._offers: dict[tuple[str, str], Offer] = {}
        self._own: dict[tuple[str, str], Items] = {}
        self._with_headers: dict[tuple[str, str], tuple[tuple[str, int], Items]] = {}
        self._learning: dict[tuple[str, str], asyncio.Future[Offer]] = {}
        self._given_up: set[str] = set()
        self.failures: dict[tuple[str, str], Missing] = {}
        self.steady: Clock = steady_clock

    def known(self, spec: ServerSpec) -> Offer | None:
        """Return the neutral catalog when it is in memory."""
        return self._offers.get((spec.name, spec.revision))

    def forget(self, name: str) -> None:
        """Drop a server's catalog from memory: its spec or its pin changed."""
        for known in (self._offers, self.failures):
            for key in [key for key in known if key[0] == name]:
                del known[key]
        for key in [key for key in self._with_headers if key[1] == name]:
            del self._with_headers[key]

    def forget_instance(self, instance: Instance) -> None:
        """Drop the lists that were asked of an instance."""
        for kind in KINDS:
            self._own.pop((instance.id, kind), None)

    async def offer(self, spec: ServerSpec) -> Offer:
        """Return the neutral catalog, discovering it at most once at a time.

        Raises:
            HubError: The package cannot be installed. A server that does not start without real
                credentials is no error: its offer is `per_user`.
        """
        known = self.known(spec)
        if known is not None:
            return known
        key = (spec.name, spec.revision)
        pending = self._learning.get(key)
        if pending is None:
            pending = asyncio.get_running_loop().create_future()
            self._learning[key] = pending
            self._tasks.start("catalog.learn", self._learn(spec, pending))
        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            self._given_up.add(spec.name)
            raise

    def note(
        self, server: str, user_id: str, problem: str, revision: tuple[str, int] = ("", 0)
    ) -> None:
        """Remember why a user misses a server's lists, or with "" that nothing is missing."""
        key = (server, user_id)
        if not problem:
            self.failures.pop(key, None)
        elif key in self.failures or len(self.failures) < _MAX_FAILURES:
            self.failures[key] = Missing(problem, revision, self.steady())

    def listed(self, spec: ServerSpec, instance: Instance | None, kind: Kind) -> Items:
        """Return what is known of a list without asking: the instance's own, else the neutral one."""
        if instance is not None:
            own = self._own.get((instance.id, kind.method))  # as `own`, in every warm call
            if own is not None:
                return own
            # of an earlier instance: a call that needs headers must not ask for the list
            before = self._with_headers.get((instance.owner, spec.name))
            if kind is TOOLS and before is not None and before[0] == instance.revision:
                return before[1]
        offer = self.known(spec)
        return offer.lists.get(kind.method, _NONE) if offer is not None else _NONE

    def own(self, instance: Instance, kind: Kind) -> Items | None:
        """Return a list as an instance gave it, or None when it was not asked."""
        return self._own.get((instance.id, kind.method))

    async def items(
        self, instance: Instance, kind: Kind, *, tell: Tell | None, owned: bool
    ) -> Items:
        """Return a list as the caller's instance gives it, kept until it says that it changed.

        Args:
            instance: Where the caller's calls go.
            kind: Which list.
            tell: Says who the caller is, where the server is told.
            owned: The instance is the caller's alone. If not, what it lists for a user that it was
                told of is that user's, and is not kept.
        """
        if tell is not None and not owned:
            return await read_list(instance.upstream, kind, tell)
        known = self.own(instance, kind)
        if known is None:
            known = await read_list(instance.upstream, kind, tell)
            self._own[(instance.id, kind.method)] = known
            if kind is TOOLS and any(item.mirrored for item in known):
                key = (instance.owner, instance.server)
                self._with_headers[key] = (instance.revision, known)
        return known

    async def _learn(self, spec: ServerSpec, pending: "asyncio.Future[Offer]") -> None:
        key = (spec.name, spec.revision)
        try:
            offer = self._offers[key] = await self._load(spec)
            self.note(spec.name, "", "")
            if not pending.done():
                pending.set_result(offer)
            if spec.name in self._given_up:
                self._on_late(spec.name)
        except HubError as error:
            self.note(spec.name, "", str(error))
            pending.set_exception(error)
            pending.exception()  # those who waited may be gone
        finally:
            self._given_up.discard(spec.name)
            self._learning.pop(key, None)
            if not pending.done():
                pending.set_exception(Unavailable(f"Server '{spec.name}' cannot be listed now."))
                pending.exception()

    async def _load(self, spec: ServerSpec) -> Offer:
        version = await self._programs.version(spec)
        key = kept_as(spec, version)
        stored = await self._states.catalog(spec.name, key)
        age_s = 0.0 if stored is None else self._clock() - stored.at
        if stored is None or (stored.per_user and not 0 <= age_s <= _AGAIN_S):
            # nobody's instance may have failed for a reason that is gone: a busy machine, an older SDK;
            # what is of a time to come was kept while the wall clock was wrong
            stored = await self._discover(spec)
            await self._states.save_catalog(spec.name, key, stored)
        return _offer(stored)

    async def _discover(self, spec: ServerSpec) -> StoredCatalog:
        if spec.transport is Transport.HTTP and (spec.slots or spec.user_aware):
            # it is somebody else's machine: nobody's placeholder is sent there
            return StoredCatalog(initialize=b"{}", at=self._clock(), per_user=True, **_columns({}))
        try:
            return await self._asked(spec)
        except HubError as error:
            if await self._programs.pin_older_sdk(spec, error):
                return await self._discover(spec)
            _log.info("catalog.per_user", server=spec.name, reason=error.code)
            return StoredCatalog(initialize=b"{}", at=self._clock(), per_user=True, **_columns({}))

    async def _asked(self, spec: ServerSpec) -> StoredCatalog:
        async with self._pool.neutral(spec) as instance:
            offer = Offer(envelope.object_of(instance.upstream.opening))
            lists: dict[str, bytes] = {}
            for kind in KINDS.values():
                if kind.capability in offer.capabilities:
                    items = await _neutral_list(instance.upstream, kind)
                    lists[kind.member] = envelope.array([item.raw for item in items])
            return StoredCatalog(
                initialize=instance.upstream.opening,
                at=self._clock(),
                per_user=False,
                **_columns(lists),
            )


async def read_list(upstream: Upstream, kind: Kind, tell: Tell | None = None) -> Items:
    """Read all pages of a list from a server, told of a user or of none.

    Raises:
        HubError: The server failed, did not answer in time, or lists too much or too long. A JSON-RPC error counts as an empty
            list when it says that the server has no such method.
    """
    items: list[Item] = []
    cursor: Raw | None = None
    size, began = 0, time.monotonic()
    for _ in range(_MAX_PAGES):
        if time.monotonic() - began > _LONGEST_S:
            raise UpstreamFailed(f"Server '{upstream.name}' lists for more than {_LONGEST_S:g} s.")
        params: Members = {"cursor": cursor} if cursor is not None else {}
        exchange = await upstream.send(Outgoing(kind.method, _LIST_TIMEOUT_S, tell=tell), params)
        result = _listed(upstream, kind, await exchange.settled())
        for raws in _page(upstream, result.get(kind.member), len(items)):
            size += sum(map(len, raws))
            if size > _MAX_BYTES:
                raise UpstreamFailed(
                    f"Server '{upstream.name}' lists more than {_MAX_BYTES // 2**20} MiB."
                )
            for number, raw in enumerate(raws):
                if number % _TURN == 0:  # others' calls take turns
                    await asyncio.sleep(0)
                # a client of the modern era leaves others out
                if kind is not TOOLS or upstream.era is not Era.MODERN or usable(raw):
                    items.append(_item(kind, msgspec.Raw(envelope.one_line(bytes(raw)))))
        cursor = result.get("nextCursor")
        if cursor is None or bytes(cursor) == b"null":
            break
    return Items(items)


async def _neutral_list(upstream: Upstream, kind: Kind) -> Items:
    """Return a list as nobody's instance gives it; without tools there is no neutral catalog.

    Raises:
        HubError: As `read_list`.
    """
    try:
        return await read_list(upstream, kind)
    except ListFailed:
        if kind is TOOLS:
            raise
        return _NONE


def _listed(upstream: Upstream, kind: Kind, answer: Message) -> Members:
    """Return the result of a list method: a list that failed is no empty one, and is not kept as one.

    Raises:
        ListFailed: It failed.
    """
    error = answer.inner("error")
    if "error" not in answer.members or translate.code_of(error) in _UNKNOWN:
        return answer.inner("result")
    text = envelope.text(error.get("message"))[:300]
    text = text.removeprefix(f"Server '{upstream.name}': ")
    raise ListFailed(f"Server '{upstream.name}' failed at {kind.method}: {text}")


def _page(upstream: Upstream, raw: Raw | None, before: int) -> Iterator[list[msgspec.Raw]]:
    """Return the items of one page, which come behind `before` others; those of a large one some at a time.

    Raises:
        UpstreamFailed: There are too many.
    """
    try:
        for found in envelope.items_in_turns(raw or msgspec.Raw(b"[]")):
            before += len(found)
            if before > envelope.MOST:
                raise envelope.TooMany
            yield found
    except envelope.TooMany:
        text = f"Server '{upstream.name}' lists more than {envelope.MOST} items."
        raise UpstreamFailed(text) from None
    except msgspec.MsgspecError:
        return


def _item(kind: Kind, raw: msgspec.Raw) -> Item:
    name = envelope.text(envelope.object_of(raw).get(kind.key))
    return Item(name, raw, mirrored(raw), ui_resource(raw)) if kind is TOOLS else Item(name, raw)


def _columns(lists: dict[str, bytes]) -> dict[str, bytes]:
    return {
        "tools": lists.get(TOOLS.member, b"[]"),
        "prompts": lists.get(PROMPTS.member, b"[]"),
        "resources": lists.get(RESOURCES.member, b"[]"),
        "templates": lists.get(TEMPLATES.member, b"[]"),
    }


def _offer(stored: StoredCatalog) -> Offer:
    raws = {
        TOOLS: stored.tools,
        PROMPTS: stored.prompts,
        RESOURCES: stored.resources,
        TEMPLATES: stored.templates,
    }
    lists = {
        kind.method: Items(_item(kind, raw) for raw in envelope.array_of(value))
        for kind, value in raws.items()
    }
    return Offer(envelope.object_of(stored.initialize), lists, stored.per_user)
