"""The two long streams: a legacy session's GET stream and a modern `subscriptions/listen`."""

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from mcphub.errors import HubError, LimitExceeded
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.http import KEEP_ALIVE_S, Reply
from mcphub.gateway.listen import LIST_CHANGED, UPDATED, Outlet
from mcphub.gateway.plane import DataPlane, lease, route
from mcphub.gateway.replies import error_reply, status_of
from mcphub.gateway.sessions import Session
from mcphub.gateway.watching import MAX_WATCHED, SUBSCRIBE, check_watched
from mcphub.policy.model import Permit, Principal
from mcphub.spawn.instance import Instance
from mcphub.wire import envelope
from mcphub.wire.codes import META_SUBSCRIPTION

_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_UNSUBSCRIBE_S: Final = 10.0

Caller = Callable[[], Principal | None]
"""Who the key that opened a stream proves now, with the groups of now; None when it counts no more."""


async def session_stream(
    plane: DataPlane,
    session: Session,
    caller: Caller,
    target: Target,
    reply: Reply,
) -> None:
    """Serve a session's GET stream until the client leaves or the session ends; a new one replaces the old."""
    if session.outlet is not None:
        session.outlet.close()
    outlet = Outlet(
        user_id=session.user_id,
        covers=lambda server: _covers(plane, caller(), target, server),
        log_level=lambda: session.log_level or "debug",
        watches=lambda server, uri: (server, uri) in session.watched,
        alive=lambda: caller() is not None,
    )
    session.outlet = outlet
    try:
        await _pump(plane, outlet, reply)
    finally:
        if session.outlet is outlet:
            session.outlet = None


async def listen(plane: DataPlane, call: Call, reply: Reply, caller: Caller) -> None:
    """Serve `subscriptions/listen`, as many for one user as calls in flight."""
    user = call.principal.user_id
    size = call.bytes_in
    if plane.listening[user] >= plane.limits.calls_per_user or not plane.held.take(user, size):
        error = LimitExceeded(
            "You have as many streams open as you may.", hint="Close one that you do not need."
        )
        call.refused = error
        answer = error_reply(call.message.id, error)
        await reply.finish(answer, *status_of(call))
        return
    plane.listening[user] += 1
    try:
        await _listen(plane, call, reply, caller)
    finally:
        plane.held.give(user, size)
        plane.listening[user] -= 1
        if not plane.listening[user]:
            del plane.listening[user]


async def _listen(plane: DataPlane, call: Call, reply: Reply, caller: Caller) -> None:
    """Acknowledge first, then send what was asked for (MCP 2026-07-28)."""
    wanted = envelope.object_of(call.params.get("notifications"))
    methods = [
        method for method, flag in LIST_CHANGED.items() if bytes(wanted.get(flag, b"")) == b"true"
    ]
    uris = [
        envelope.text(raw)
        for raw in envelope.array_of(wanted.get("resourceSubscriptions"))[:MAX_WATCHED]
    ]
    leases: list[tuple[Instance, str]] = []
    watched: set[tuple[str, str]] = set()
    try:
        for uri in uris:
            await _subscribe(plane, call, uri, leases, watched)
        honoured: dict[str, object] = {LIST_CHANGED[method]: True for method in methods}
        if watched:
            honoured["resourceSubscriptions"] = [uri for _, uri in watched]
        outlet = Outlet(
            user_id=call.principal.user_id,
            covers=lambda server: _covers(plane, caller(), call.target, server),
            methods={*methods, *([UPDATED] if watched else [])},
            watches=lambda server, uri: (server, uri) in watched,
            subscription=call.message.id,
            alive=lambda: caller() is not None,
        )
        meta = envelope.join({META_SUBSCRIPTION: msgspec.Raw(call.message.id)})
        acknowledged = envelope.join(
            {"notifications": envelope.raw(honoured), "_meta": msgspec.Raw(meta)}
        )
        await reply.emit(envelope.notification(_ACKNOWLEDGED, acknowledged))
        end = envelope.result(call.message.id, b'{"resultType":"complete","_meta":' + meta + b"}")
        await _pump(plane, outlet, reply, end)
    finally:
        plane.tasks.start("watches.end", _unsubscribe(plane, leases))


async def _unsubscribe(plane: DataPlane, leases: list[tuple[Instance, str]]) -> None:
    """End what a listen stream watched, and the leases that kept the servers running for it."""
    for instance, uri in leases:
        try:
            if uri:
                await plane.watches.end(instance, uri, _UNSUBSCRIBE_S)
        except HubError:
            continue
        finally:
            plane.pool.release(instance)


async def _subscribe(
    plane: DataPlane,
    call: Call,
    uri: str,
    leases: list[tuple[Instance, str]],
    watched: set[tuple[str, str]],
) -> None:
    """Ask a resource's server for updates; one that cannot is left out of the acknowledgement."""
    inner = Call(
        request_id=call.request_id, principal=call.principal, target=call.target,
        message=envelope.Message({}, call.message.id, SUBSCRIBE), params={"uri": envelope.raw(uri)},
        progress_token=b"", modern=call.modern, session=None, emit=call.emit, watch=call.watch,
    )  # fmt: skip
    try:
        check_watched(watched, uri)
        to = route(plane, inner)
        if (to.spec.name, uri) in watched:
            return
        instance = await lease(plane, inner, to.spec, to.permit)
        leases.append((instance, ""))
        answer = await plane.watches.begin(instance, uri, plane.timeout_s(to.spec))
        if "result" in answer:
            leases[-1] = (instance, uri)
            watched.add((to.spec.name, uri))
    except HubError:
        return


async def _pump(plane: DataPlane, outlet: Outlet, reply: Reply, end: bytes = b"") -> None:
    """Send what the outlet gets until the client is gone or the outlet closes."""
    plane.outlets.add(outlet)
    try:
        await reply.open_stream()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_close_when_gone(reply, outlet))
            while not outlet.closed:
                messages = await outlet.next(KEEP_ALIVE_S)
                if not outlet.alive():
                    break
                for message in messages:
                    await reply.emit(message)
                if not messages and not outlet.closed:
                    await reply.keep_alive()
            watcher.cancel()
        if end:
            await reply.emit(end)
        await reply.close_stream()
    finally:
        plane.outlets.remove(outlet)


async def _close_when_gone(reply: Reply, outlet: Outlet) -> None:
    await reply.until_disconnect()
    outlet.close()


def _covers(plane: DataPlane, caller: Principal | None, target: Target, server: str) -> bool:
    """Whether a server belongs to the endpoint and the caller may use it now."""
    if caller is None or (target.server and target.server != server):
        return False
    spec = plane.access.specs.get(server)
    if spec is None or (target.group and target.group not in spec.groups):
        return False
    return isinstance(plane.access.verdict(caller, server), Permit)
