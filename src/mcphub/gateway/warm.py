"""A warm call without waiting: begun in one step, completed in one step, no coroutine in between.

`relay` does everything; this does what it does when nothing has to be waited for: the caller's
instance runs, its pipe takes the request, and the answer is the first thing that comes back. It is
made of the very same steps, in the same order, so that the fast lane (`gateway.fastlane`) decides
nothing by itself. A call that turns out to need more goes on in `relay`.
"""

from typing import Final

from mcphub.audit.records import Outcome
from mcphub.errors import HubError
from mcphub.gateway import answers
from mcphub.gateway.calls import Call
from mcphub.gateway.onward import outgoing
from mcphub.gateway.plane import DataPlane, ready_instance, route
from mcphub.gateway.relay import Begun, answered, ended, refused
from mcphub.gateway.watching import LISTEN, SUBSCRIBE, UNSUBSCRIBE

_NEVER: Final = frozenset({*answers.LOCAL, SUBSCRIBE, UNSUBSCRIBE, LISTEN})
"""Methods that are not a request to one server and its answer."""


def begin(plane: DataPlane, call: Call) -> Begun | None:
    """Send a request to its server at once; None when `relay` has to do it, and nothing was done."""
    user = call.principal.user_id
    if (
        call.method in _NEVER
        or "requestState" in call.params
        or plane.in_flight[user] >= plane.limits.calls_per_user
    ):
        return None
    try:
        to = route(plane, call)
        instance = ready_instance(plane, call, to.spec, to.permit)
        if instance is None:
            return None
        exchange = instance.upstream.send_now(outgoing(plane, call, to, instance, call.params))
    except HubError:
        return None  # `relay` runs into the same, and answers it
    if exchange is None:
        return None
    plane.pool.take(instance)
    plane.in_flight[user] += 1
    call.server, call.name, call.instance_id = to.spec.name, to.name, instance.id
    if call.session is not None:
        call.session.calls[call.message.id] = (instance, exchange)
    return Begun(to, instance, exchange)


def complete(plane: DataPlane, call: Call, begun: Begun) -> bytes:
    """Return the answer to a call whose exchange has one and whose server said nothing before it."""
    reply, outcome, code = b"", Outcome.ERROR, None
    try:
        reply, outcome, code = answered(plane, call, begun)
    except HubError as error:
        reply, outcome, code = refused(plane, call, error)
    finally:
        if call.session is not None:
            call.session.calls.pop(call.message.id, None)
        plane.pool.release(begun.instance)
        ended(plane, call, outcome, code, len(reply))
    return reply
