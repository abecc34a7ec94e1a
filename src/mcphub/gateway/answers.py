"""What the hub answers itself: opening, discovery, lists, log level, ping.

Lists come from neutral catalogs, filtered by the caller's permits (`gateway.catalogs`). One function
per method, all of the same form: (plane, call) -> raw result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from mcphub import __version__
from mcphub.catalog.guide import missing_credential_text
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError, InvalidInput, MissingCredential
from mcphub.gateway.assembling import each
from mcphub.gateway.calls import Call
from mcphub.gateway.catalogs import KINDS, PROMPTS, RESOURCES, TOOLS, Item, Kind, Missing
from mcphub.gateway.naming import exposed
from mcphub.gateway.plane import DataPlane, lease, ready_instance
from mcphub.policy.model import Permit
from mcphub.wire import envelope, translate
from mcphub.wire.codes import (
    LATEST_LEGACY,
    LEGACY_VERSIONS,
    LOG_LEVELS,
    MODERN_VERSIONS,
)
from mcphub.wire.envelope import Members
from mcphub.wire.extensions import routed
from mcphub.wire.pieces import Raw

_log = structlog.get_logger()
_PROBE_S: Final = 0.25
_AGAIN_S: Final = 60.0
"""Until a list of several servers tries one again that could not be listed."""
_BRIEFLY_S: Final = 1.0
_MAX_CAPABILITIES: Final = 64 * 1024
_UNAVAILABLE: Final = "dev.mcphub/unavailable"
_HUB_INFO: Final = msgspec.json.encode(
    {"name": "mcphub", "title": "MCPHub", "version": __version__}
)
_AGGREGATED: Final = msgspec.json.encode(
    {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "completions": {},
        "logging": {},
    }
)
_INSTRUCTIONS: Final = envelope.raw(
    "Tools of several servers, each named server__tool. Every call runs in an own instance of the calling user, "
    "with that user's credentials."
)

Local = Callable[[DataPlane, Call], Awaitable[bytes]]


async def initialize(plane: DataPlane, call: Call) -> bytes:
    """Answer `initialize`: negotiate the revision, show the server's own capabilities where there is one server."""
    requested = envelope.text(call.params.get("protocolVersion"))
    version = requested if requested in LEGACY_VERSIONS else LATEST_LEGACY
    if len(call.params.get("capabilities", b"")) > _MAX_CAPABILITIES:  # a session keeps them
        raise InvalidInput(f"The capabilities are over {_MAX_CAPABILITIES} bytes.")
    opening = await _opening(plane, call)
    opening["protocolVersion"] = envelope.raw(version)
    return envelope.join(opening)


async def discover(plane: DataPlane, call: Call) -> bytes:
    """Answer `server/discover` (MCP 2026-07-28 server/discover).

    Clients probe with it and give up within a second: a server that is not known yet is not waited for.
    """
    try:
        async with asyncio.timeout(_PROBE_S):
            opening = await _opening(plane, call)
    except TimeoutError:
        opening = Members(capabilities=msgspec.Raw(_AGGREGATED))
    info = bytes(opening.pop("serverInfo", msgspec.Raw(_HUB_INFO)))
    opening.pop("protocolVersion", None)
    opening["supportedVersions"] = envelope.raw(MODERN_VERSIONS)
    return translate.result_for_modern("server/discover", envelope.join(opening), info)


async def list_items(plane: DataPlane, call: Call) -> bytes:
    """Answer a list method, page by page."""
    kind = KINDS[call.method]
    if call.target.server:
        spec, permit = plane.access.permit(call.principal, call.target.server)
        call.server = spec.name
        items = await _items(plane, call, spec, permit, kind, start=True)
        lists, unavailable = [(spec.name, permit, items)], dict[str, str]()
        info = (await plane.catalogs.offer(spec)).server_info
    else:
        lists, unavailable = await _lists(plane, call, kind)
        info = _HUB_INFO
    length = sum(len(items) for _, _, items in lists)
    async with plane.lists.turn(call.principal.user_id, length):
        return await _put_together(plane, call, kind, lists, unavailable, info)


async def _put_together(
    plane: DataPlane,
    call: Call,
    kind: Kind,
    lists: Sequence[tuple[str, Permit, tuple[Item, ...]]],
    unavailable: dict[str, str],
    info: bytes,
) -> bytes:
    """Return the page that a call asks for, of what its caller may see."""
    seen: list[tuple[str, Sequence[Item]]] = []
    for server, permit, items in lists:
        seen.append((server, await _visible(permit, kind, items)))
    page, cursor = plane.pages.cut(call, seen)
    if call.target.server:
        raws: list[msgspec.Raw] = [item.raw for _, item in page]
    else:
        raws = await each(lambda one: _prefixed(one[0], kind, one[1]), page)
    value: Members = {kind.member: _raws(raws)}
    if unavailable:
        value["_meta"] = envelope.raw({_UNAVAILABLE: unavailable})
    if cursor:
        value["nextCursor"] = envelope.raw(cursor)
    result = envelope.join(value)
    return (
        translate.result_for_modern(call.method, result, info)
        if call.modern is not None
        else result
    )


async def _visible(permit: Permit, kind: Kind, items: Sequence[Item]) -> Sequence[Item]:
    """Return what the caller may see of a server's list."""
    if kind is not TOOLS:
        return items
    allowed = await each(permit.allows_tool, [item.name for item in items])
    return [item for item, may in zip(items, allowed, strict=True) if may]


async def set_level(_plane: DataPlane, call: Call) -> bytes:
    """Answer `logging/setLevel`: remembered for the session, sent to servers with the next calls."""
    level = envelope.text(call.params.get("level"))
    if level not in LOG_LEVELS:
        raise InvalidInput(
            f"There is no log level '{level[:32]}'.", hint=f"Use one of {', '.join(LOG_LEVELS)}."
        )
    if call.session is not None:
        call.session.log_level = level
    return b"{}"


async def ping(_plane: DataPlane, _call: Call) -> bytes:
    """Answer `ping`."""
    return b"{}"


LOCAL: Final[dict[str, Local]] = {
    "initialize": initialize,
    "server/discover": discover,
    "logging/setLevel": set_level,
    "ping": ping,
    **dict.fromkeys(KINDS, list_items),
}
"""Methods that the hub answers itself."""


def explain_missing(plane: DataPlane, call: Call, error: MissingCredential) -> MissingCredential:
    """Return the error as the user needs it: which slot, why, where to make the token, how to set it."""
    spec = plane.access.specs.get(call.server)
    if spec is None:
        return error
    missing = plane.access.missing(call.principal, spec)
    if not missing:
        return error
    return MissingCredential(missing_credential_text(plane.hub_url, spec.name, list(missing), spec))


async def _opening(plane: DataPlane, call: Call) -> Members:
    """Return the members of an InitializeResult for the endpoint of the call."""
    if not call.target.server:
        if not plane.access.permitted(call.principal, call.target.group) and call.target.group:
            raise InvalidInput(f"No server of group '{call.target.group}' is there for you.")
        return {
            "capabilities": _capabilities(plane, call),
            "serverInfo": msgspec.Raw(_HUB_INFO),
            "instructions": _INSTRUCTIONS,
        }
    spec, permit = plane.access.permit(call.principal, call.target.server)
    call.server = spec.name
    offer = await plane.catalogs.offer(spec)
    if not offer.per_user:
        return dict(offer.initialize)
    instance = await lease(plane, call, spec, permit)
    plane.pool.release(instance)
    return envelope.object_of(instance.upstream.opening)


def _capabilities(plane: DataPlane, call: Call) -> Raw:
    """Return what an endpoint of several servers can do: what the hub does, and extensions of its servers."""
    merged = envelope.object_of(_AGGREGATED)
    found: Members = {}
    for spec, _ in plane.access.permitted(call.principal, call.target.group):
        offer = plane.catalogs.known(spec)
        if offer is not None:
            found = routed(offer.capabilities) | found
    if found:
        merged["extensions"] = envelope.object_raw(found)
    return envelope.object_raw(merged)


async def _lists(
    plane: DataPlane, call: Call, kind: Kind
) -> tuple[list[tuple[str, Permit, tuple[Item, ...]]], dict[str, str]]:
    """Return the whole lists of all servers of the endpoint by server, and why the others are missing.

    A server that fails or is slow is named, not waited for. One that failed is not tried again by every
    list: not at all for a while, then beside the list, which waits a moment for it.
    """
    permitted = plane.access.permitted(call.principal, call.target.group)
    user_id = call.principal.user_id

    async def one(spec: ServerSpec, permit: Permit) -> tuple[Item, ...] | str:
        before = _failed_before(plane, call, spec, permit)
        if before is not None and plane.catalogs.steady() - before.at < _AGAIN_S:
            return before.reason
        budget_s = plane.limits.list_budget_s if before is None else _BRIEFLY_S
        try:
            async with asyncio.timeout(budget_s):
                items = await _items(plane, call, spec, permit, kind, start=False)
        except TimeoutError:
            problem = before.reason if before else f"It did not answer within {budget_s:g} s."
        except MissingCredential as error:
            return str(error)  # the user's to mend, no trouble of the server
        except HubError as error:
            problem = str(error)
        else:
            plane.catalogs.note(spec.name, user_id, "")
            return items
        plane.catalogs.note(spec.name, user_id, problem, plane.access.revision(permit, spec))
        return problem

    found = await asyncio.gather(*(one(spec, permit) for spec, permit in permitted))
    lists: list[tuple[str, Permit, tuple[Item, ...]]] = []
    unavailable: dict[str, str] = {}
    for (spec, permit), items in zip(permitted, found, strict=True):
        if isinstance(items, str):
            unavailable[spec.name] = items
        else:
            lists.append((spec.name, permit, items))
    return lists, unavailable


def _failed_before(
    plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit
) -> Missing | None:
    """Return why a server could not be listed last, if nothing that the user has of it has changed since."""
    before = plane.catalogs.failures.get((spec.name, call.principal.user_id))
    if before is None or before.revision != plane.access.revision(permit, spec):
        return None
    offer = plane.catalogs.known(spec)
    learned = offer is not None and not offer.per_user
    return None if learned or ready_instance(plane, call, spec, permit) else before


def _raws(items: list[msgspec.Raw]) -> Raw:
    return msgspec.Raw(envelope.array(items))


async def _items(
    plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit, kind: Kind, *, start: bool
) -> tuple[Item, ...]:
    """Return one server's whole list for this caller; `start` allows to start the caller's instance."""
    offer = await plane.catalogs.offer(spec)
    if not offer.per_user and kind.capability not in offer.capabilities:
        return ()
    running = ready_instance(plane, call, spec, permit)
    if not (offer.per_user or kind is RESOURCES or (running is not None and running.lists_changed)):
        return offer.lists[kind.method]
    if running is None and not start and not offer.per_user:
        return offer.lists[kind.method]  # listing many servers starts none of the user's processes
    instance = await lease(plane, call, spec, permit)
    try:
        tell = plane.contexts.teller(call, spec, instance, kind.method, plane.readers)
        owned = instance.owner == call.principal.user_id
        return await plane.catalogs.items(instance, kind, tell=tell, owned=owned)
    finally:
        plane.pool.release(instance)


def _prefixed(server: str, kind: Kind, item: Item) -> msgspec.Raw:
    if kind not in (TOOLS, PROMPTS):
        return item.raw
    members = envelope.object_of(item.raw)
    members["name"] = envelope.raw(exposed(server, item.name))
    return msgspec.Raw(envelope.join(members))
