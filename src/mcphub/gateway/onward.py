"""Where a caller's request becomes the request to a server: the one place that decides what goes on.

Everything of the caller that a server gets is named here: parameters, progress, log level, what the
client can be asked, the span that a call has in a trace. Nothing of the caller's HTTP request is. How it is written in the server's era is
the upstream's business.
"""

from mcphub.gateway.calls import Call
from mcphub.gateway.catalogs import TOOLS
from mcphub.gateway.plane import DataPlane, Route
from mcphub.gateway.replies import Protocol
from mcphub.policy.model import Transport
from mcphub.spawn.instance import Instance
from mcphub.upstream.lines import NO_HEADERS
from mcphub.upstream.outgoing import Outgoing
from mcphub.wire import envelope, parameters, translate
from mcphub.wire.codes import META_USER_CONTEXT, METHOD_NOT_FOUND, Era
from mcphub.wire.envelope import Members
from mcphub.wire.eras import ROOTS

_OFFER = envelope.raw({"versions": ["1"]})
DEFAULT_LEVEL = "info"
"""What a legacy client hears that named no level: it expects that the server decides."""


def outgoing(plane: DataPlane, call: Call, to: Route, instance: Instance) -> Outgoing:
    """Return how a call goes to `instance`, whatever its params are.

    Raises:
        Protocol: -32601: a method that means something else in the server's era.
    """
    if call.method.startswith("tasks/") and call.era is not instance.upstream.era:
        raise Protocol(METHOD_NOT_FOUND, f"Server '{to.spec.name}' has no method {call.method}.")
    modern = instance.upstream.era is Era.MODERN
    asks = call.asks
    if ROOTS in asks and not to.spec.roots:
        asks -= {ROOTS}
    return Outgoing(
        method=call.method,
        timeout_s=plane.timeout_s(to.spec),
        longest_s=plane.limits.call_timeout_max_s,
        rename=to.rename,
        progress_token=call.progress_token,
        log_level=_log_level(call) if modern else call.log_level,
        wants_log=call.wants_log,
        asks=asks,
        capabilities=_capabilities(call, to, instance) if modern else b"{}",
        one_by_one=call.modern is None,
        headers=_headers(plane, call, to, instance) if modern else NO_HEADERS,
        meta={"traceparent": envelope.raw(call.trace.onward)} if call.trace is not None else {},
        tell=plane.contexts.teller(call, to.spec, instance, call.method, plane.readers),
    )


def _log_level(call: Call) -> str:
    """Return the level for a modern server. Whether it announced the capability says nothing: SDKs log without."""
    return call.log_level or (DEFAULT_LEVEL if call.modern is None else "")


def _capabilities(call: Call, to: Route, instance: Instance) -> bytes:
    """Return what the client declared, as far as this server may use it (never more)."""
    if call.modern is None:
        declared = envelope.object_of(call.session.capabilities if call.session else b"{}")
    else:
        declared = call.modern.capabilities
    if not declared and not to.spec.offers:
        return b"{}"
    declared = _with_own_context(declared, to)
    return translate.capabilities_without(
        declared, roots=to.spec.roots, tasks=instance.upstream.one_owner
    )


def _with_own_context(declared: Members, to: Route) -> Members:
    """Let the hub say that it names the user, where it does; what a client says of that never counts."""
    offered = envelope.object_of(declared.get("extensions"))
    if not to.spec.offers and META_USER_CONTEXT not in offered:
        return declared
    offered.pop(META_USER_CONTEXT, None)
    if to.spec.offers:
        offered[META_USER_CONTEXT] = _OFFER
    return {**declared, "extensions": envelope.object_raw(offered)}


def _headers(plane: DataPlane, call: Call, to: Route, instance: Instance) -> dict[str, str]:
    """Return the headers that repeat arguments: by the tool's definition, as far as it is known.

    Of a tool that nobody has listed yet a modern client's own headers are passed on; the server
    compares them with the body.
    """
    if call.method != "tools/call" or to.spec.transport is not Transport.HTTP:
        return {}
    for item in plane.catalogs.listed(to.spec, instance, TOOLS):
        if item.name == to.name:
            arguments = call.message.inner("params", "arguments")
            return parameters.headers_of(item.mirrored, arguments) if item.mirrored else {}
    return dict(call.modern.parameters) if call.modern is not None else {}
