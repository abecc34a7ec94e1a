"""The services of the data plane, and where a call goes: which server, under which permit and name."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from mcphub.audit.recorder import Recorder
from mcphub.audit.tracing import Traces
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import Denied, NotFound, Unavailable
from mcphub.gateway.access import Access
from mcphub.gateway.asking import ParkedCalls
from mcphub.gateway.assembling import OneAtATime
from mcphub.gateway.bounded import Unread
from mcphub.gateway.calls import SEPARATOR, Call
from mcphub.gateway.catalogs import PROMPTS, RESOURCES, TEMPLATES, TOOLS, Catalogs, Items, Kind
from mcphub.gateway.context import UserContexts
from mcphub.gateway.crowd import Crowd
from mcphub.gateway.listen import Outlets
from mcphub.gateway.metrics import Metrics
from mcphub.gateway.naming import own_name
from mcphub.gateway.paging import Pages
from mcphub.gateway.replies import Protocol
from mcphub.gateway.sessions import Sessions
from mcphub.gateway.shares import SMALL, Readers, Uploads
from mcphub.gateway.states import States
from mcphub.gateway.task_owners import TaskOwners
from mcphub.gateway.watching import Watches
from mcphub.ids import Clock, RequestIds
from mcphub.policy.model import Isolation, Permit, Transport
from mcphub.spawn.dialects import Dialects
from mcphub.spawn.instance import Instance
from mcphub.spawn.pool import InstancePool
from mcphub.tasks import Tasks
from mcphub.wire import envelope, eras, parameters
from mcphub.wire.codes import METHOD_NOT_FOUND
from mcphub.wire.extensions import TASK_METHODS


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of calls; see `settings.Limits`."""

    body_bytes: int
    call_timeout_s: float
    call_timeout_max_s: float
    calls_per_user: int
    list_budget_s: float


@dataclass(slots=True)
class DataPlane:
    """Everything that a request needs; made once by `app`.

    Attributes:
        tasks: Where watchers of slow calls run.
        hub_url: URL that users reach the hub at, for texts.
        parked: Calls that wait for their modern clients.
        states: Seals what a modern client carries from one round of a call to the next.
        watches: Resources that are watched.
        pages: Cuts lists into pages.
        uploads: Bodies that arrive.
        held: Bodies of calls that are under way, or wait for their clients; small ones are not counted.
        unread: Connections whose clients do not read.
        crowd: All connections of clients.
        task_owners: Where tasks are and whose they are.
        contexts: Who the user is, as servers are told.
        lists: Turns of users whose long lists are put together.
        in_flight: Calls per user now.
        listening: Open `subscriptions/listen` streams per user.
        metrics: Counters.
        traces: Which calls get a span; None where tracing is off.
        seen_keys: Key id -> when it was used last; written to the store now and then.
    """

    access: Access
    pool: InstancePool
    dialects: Dialects
    catalogs: Catalogs
    sessions: Sessions
    outlets: Outlets
    recorder: Recorder
    limits: CallLimits
    clock: Clock
    tasks: Tasks
    parked: ParkedCalls
    contexts: UserContexts
    states: States
    watches: Watches
    pages: Pages
    uploads: Uploads
    held: Uploads
    unread: Unread
    crowd: Crowd
    readers: Readers = field(default_factory=Readers)
    task_owners: TaskOwners = field(default_factory=TaskOwners)
    lists: OneAtATime = field(default_factory=OneAtATime)
    hub_url: str = ""
    ids: RequestIds = field(default_factory=RequestIds)
    in_flight: dict[str, int] = field(default_factory=dict)
    listening: Counter[str] = field(default_factory=Counter)
    seen_keys: dict[str, float] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces | None = None

    def has_room(self, user_id: str, size: int) -> bool:
        """Whether a user may have one more call in flight, whose body has `size` bytes."""
        if size > SMALL and not self.held.has_room(user_id, size):
            return False
        return self.in_flight.get(user_id, 0) < self.limits.calls_per_user

    def timeout_s(self, spec: ServerSpec) -> float:
        """Seconds that a call of a server may take: its own setting, else the hub's, never over the hub's maximum."""
        return min(spec.timeout_s or self.limits.call_timeout_s, self.limits.call_timeout_max_s)

    def enter(self, user_id: str, size: int) -> None:
        """Count a call of a user as in flight."""
        self.in_flight[user_id] = self.in_flight.get(user_id, 0) + 1
        if size > SMALL:
            self.held.add(user_id, size)

    def leave(self, user_id: str, size: int) -> None:
        """Count a call of a user as over."""
        if size > SMALL:
            self.held.give(user_id, size)
        left = self.in_flight[user_id] - 1
        if left:
            self.in_flight[user_id] = left
        else:
            self.in_flight.pop(user_id)


class Route(NamedTuple):
    """Where a call goes.

    Attributes:
        spec, permit: The server and the right to use it.
        name: The server's own name of the tool or prompt, or the resource URI; "" for neither.
        rename: Member of params and its new value when the caller's name is not the server's.
    """

    spec: ServerSpec
    permit: Permit
    name: str = ""
    rename: tuple[str, str] | None = None


def route(plane: DataPlane, call: Call) -> Route:
    """Return where a forwarded call goes; no I/O.

    Raises:
        NotFound: No such server, tool, prompt or resource for this caller.
        Denied: The tool is filtered for this caller.
        Protocol: -32601: a method that names no server, where there are many.
    """
    method, params = call.method, call.params
    if method in {"tools/call", "prompts/get"}:
        kind = TOOLS if method == "tools/call" else PROMPTS
        return _by_name(plane, call, kind, envelope.text(params.get("name")))
    if method in {"resources/read", "resources/subscribe", "resources/unsubscribe"}:
        return _by_uri(plane, call, envelope.text(params.get("uri")))
    if method == "completion/complete":
        ref = envelope.object_of(params.get("ref"))
        if "uri" in ref:
            return _by_uri(plane, call, envelope.text(ref.get("uri")))
        found = _by_name(plane, call, PROMPTS, envelope.text(ref.get("name")))
        if found.rename is not None:
            ref["name"] = envelope.raw(found.name)
            call.params["ref"] = envelope.object_raw(ref)
        return Route(found.spec, found.permit, found.name)
    if method in TASK_METHODS or method == "tasks/list":
        return _by_task(plane, call, envelope.text(params.get("taskId")))
    # as a request, a notification would reach the server with ids that are the hub's there (rule R2)
    if not call.target.server or method.startswith("notifications/"):
        raise Protocol(METHOD_NOT_FOUND, f"There is no method {method[:128]} here.")
    spec, permit = plane.access.permit(call.principal, call.target.server)
    return Route(spec, permit)


def check_tool(permit: Permit, tool: str) -> None:
    """Refuse a tool that is filtered for the caller.

    Raises:
        Denied: It is.
    """
    if not permit.allows_tool(tool):
        raise Denied(
            f"Tool '{tool[:128]}' of server '{permit.server}' is not allowed here.",
            hint="An administrator sets tools.allow and tools.deny.",
            code="tool-denied",
        )


def session_part(call: Call, permit: Permit) -> str:
    """Return the session part of an instance key: only for `isolation: session`, only in the legacy era."""
    if permit.isolation is Isolation.SESSION and call.session is not None:
        return call.session.digest + call.session.id[:16]
    return ""


def ready_instance(
    plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit
) -> Instance | None:
    """Return the caller's running instance of a server, or None; never starts one."""
    return plane.pool.ready(permit, plane.access.revision(permit, spec), session_part(call, permit))


async def lease(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit) -> Instance:
    """Return the caller's instance for one call, starting it when needed; end with `pool.release`.

    A start that is over before it is done, because the server was pinned or a credential set meanwhile, is
    begun once more.
    """
    part, revision = session_part(call, permit), plane.access.revision(permit, spec)
    try:
        return await plane.pool.lease(permit, spec, revision, part)
    except Unavailable:
        name = spec.name
        if plane.access.revision(permit, spec) == revision or spec is not plane.access.specs.get(
            name
        ):
            raise
    spec, permit = plane.access.permit(call.principal, name)
    return await plane.pool.lease(permit, spec, plane.access.revision(permit, spec), part)


def _by_name(plane: DataPlane, call: Call, kind: Kind, name: str) -> Route:
    what = "tool" if kind is TOOLS else "prompt"
    if not name:
        raise NotFound(f"A {what} needs a name.")
    if call.target.server:
        spec, permit = plane.access.permit(call.principal, call.target.server)
        own, rename = name, None
    else:
        spec, permit, own = _split(plane, call, kind, name)
        rename = ("name", own)
    if kind is TOOLS:
        check_tool(permit, own)
    if kind is TOOLS and call.modern is not None:
        _check_headers(plane, call, spec, permit, own)
    return Route(spec, permit, own, rename)


def _check_headers(
    plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, tool: str
) -> None:
    """Refuse a modern call whose headers say something else than its arguments.

    Checked against the definition that the caller sees; a list nobody has asked for yet has none.
    """
    instance = ready_instance(plane, call, spec, permit)
    for item in plane.catalogs.listed(spec, instance, TOOLS):
        if item.name == tool and item.mirrored and call.modern is not None:
            arguments = call.message.inner("params", "arguments")
            try:
                parameters.check(item.mirrored, arguments, call.modern.parameters)
            except eras.Refused as error:
                raise Protocol(error.code, error.reason) from None


def _split(plane: DataPlane, call: Call, kind: Kind, name: str) -> tuple[ServerSpec, Permit, str]:
    """Resolve `server__tool`, or a bare name that exactly one visible server owns."""
    server, found, own = name.partition(SEPARATOR)
    permitted = {
        spec.name: (spec, permit)
        for spec, permit in plane.access.permitted(call.principal, call.target.group)
    }
    if found and server in permitted:
        spec, permit = permitted[server]
        known = _listed(plane, call, spec, permit, kind)
        original = own_name(server, own, partial(known.aliases, server))
        if original is not None:
            return spec, permit, original
    owners = [
        (spec, permit)
        for spec, permit in permitted.values()
        if name in _listed(plane, call, spec, permit, kind).names
        and (kind is not TOOLS or permit.allows_tool(name))
    ]
    if len(owners) == 1:
        return (*owners[0], name)
    if owners:
        names = ", ".join(f"{spec.name}{SEPARATOR}{name}" for spec, _ in owners)
        raise NotFound(f"More than one server has '{name[:128]}'.", hint=f"Use one of: {names}.")
    raise NotFound(
        f"There is no '{name[:128]}' for you.", hint="List again: names look like server__tool."
    )


def _by_task(plane: DataPlane, call: Call, task_id: str) -> Route:
    """Return where a request about a task goes; a task of another user is not found."""
    own = plane.task_owners.servers(call.principal.user_id, task_id) if task_id else frozenset()
    if call.target.server:
        spec, permit = plane.access.permit(call.principal, call.target.server)
        if spec.name in own or not _mixes_users(spec, permit):
            return Route(spec, permit)
    else:
        permitted = plane.access.permitted(call.principal, call.target.group)
        owners = [pair for pair in permitted if pair[0].name in own]
        if len(owners) == 1:
            return Route(*owners[0])
        if owners:
            names = ", ".join(spec.name for spec, _ in owners)
            raise NotFound(
                "More than one server gave you a task of this id.",
                hint=f"Use /mcp/NAME of one of: {names}.",
            )
    if not task_id:
        raise Protocol(METHOD_NOT_FOUND, f"There is no method {call.method[:128]} here.")
    raise NotFound("There is no such task for you.")


def _mixes_users(spec: ServerSpec, permit: Permit) -> bool:
    """Whether the server cannot tell whose task it is: it serves several users as one."""
    if permit.isolation is Isolation.SHARED:
        return True
    return spec.transport is Transport.HTTP and not (spec.slots or spec.user_aware)


def _by_uri(plane: DataPlane, call: Call, uri: str) -> Route:
    if call.target.server:
        return Route(*plane.access.permit(call.principal, call.target.server), uri)
    permitted = plane.access.permitted(call.principal, call.target.group)
    for matches in (_lists_uri, _shows_uri, _covers_uri):
        owners = [pair for pair in permitted if matches(plane, call, *pair, uri)]
        if owners:
            return _only(owners, uri)
    owners = [pair for pair in permitted if _has_resources(plane, pair[0])]
    if owners:
        return _only(owners, uri)
    raise NotFound("There is no such resource for you.")


def _only(owners: list[tuple[ServerSpec, Permit]], uri: str) -> Route:
    if len(owners) == 1:
        return Route(*owners[0], uri)
    names = ", ".join(spec.name for spec, _ in owners)
    raise NotFound(
        "More than one server may own this resource.", hint=f"Use /mcp/NAME of one of: {names}."
    )


def _listed(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, kind: Kind) -> Items:
    """Return what is known of a server's list for this caller, without asking anybody."""
    return plane.catalogs.listed(spec, ready_instance(plane, call, spec, permit), kind)


def _lists_uri(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, uri: str) -> bool:
    return uri in _listed(plane, call, spec, permit, RESOURCES).names


def _shows_uri(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, uri: str) -> bool:
    """Whether a tool shows itself with this page, which no list needs to name (MCP Apps)."""
    return bool(uri) and uri in _listed(plane, call, spec, permit, TOOLS).pages


def _covers_uri(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, uri: str) -> bool:
    return uri.startswith(_listed(plane, call, spec, permit, TEMPLATES).beginnings)


def _has_resources(plane: DataPlane, spec: ServerSpec) -> bool:
    offer = plane.catalogs.known(spec)
    return offer is not None and "resources" in offer.capabilities
