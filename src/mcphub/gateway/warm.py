"""A warm call without waiting: sent in one step, completed in one step, no coroutine in between.

`relay` does everything; this does what it does when nothing has to be waited for: the caller's
instance runs, its pipe takes the request, and the answer is the first thing that comes back. It is
made of the very same steps, in the same order, so that the fast lane (`gateway.fastlane`) decides
nothing by itself. A call that turns out to need more goes on in `relay`.

What was decided for a caller's call of a tool is remembered (`Way`) and counts for the next one, as
long as nothing that it was decided by has changed.
"""

import sys
from dataclasses import dataclass, replace
from typing import Final
from weakref import ReferenceType, ref

import msgspec

from mcphub.audit.recorder import Series
from mcphub.audit.records import Outcome, alike
from mcphub.errors import HubError
from mcphub.gateway import answers, intake
from mcphub.gateway.calls import Call
from mcphub.gateway.catalogs import TOOLS, Item
from mcphub.gateway.intake import Inbound
from mcphub.gateway.metrics import Tally
from mcphub.gateway.onward import outgoing
from mcphub.gateway.plane import DataPlane, Route, ready_instance, route
from mcphub.gateway.relay import Begun, answered, ended, record_of, refused
from mcphub.gateway.replies import status_of
from mcphub.gateway.sessions import Session
from mcphub.gateway.shaping import spliced
from mcphub.gateway.watching import LISTEN, SUBSCRIBE, UNSUBSCRIBE
from mcphub.policy.model import Transport
from mcphub.spawn.instance import Instance, State
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.upstream import Form
from mcphub.wire import envelope, eras
from mcphub.wire.arriving import Arriving
from mcphub.wire.envelope import Message
from mcphub.wire.pieces import Text
from mcphub.wire.toolcall import Params, tool_call

_NEVER: Final = frozenset({*answers.LOCAL, SUBSCRIBE, UNSUBSCRIBE, LISTEN})
"""Methods that are not a request to one server and its answer."""
_MAX_WAYS: Final = 16
_MAX_KEY: Final = 512
_OK: Final = Outcome.OK.value
_READY: Final = State.READY


def begin(plane: DataPlane, call: Call) -> Begun | None:
    """Send a request to its server at once; None when `relay` has to do it, and nothing was done."""
    user = call.principal.user_id
    if call.method in _NEVER or "requestState" in call.params:
        return None
    if not plane.has_room(user, call.bytes_in):
        return None
    try:
        to = route(plane, call)
        instance = ready_instance(plane, call, to.spec, to.permit)
        if instance is None:
            return None
        exchange = instance.upstream.send_now(outgoing(plane, call, to, instance), call.params)
    except HubError:
        return None  # `relay` runs into the same, and answers it
    if exchange is None:
        return None
    plane.pool.take(instance)
    plane.enter(user, call.bytes_in)
    call.server, call.name, call.instance_id = to.spec.name, to.name, instance.id
    if call.session is not None:
        call.session.calls[call.message.id] = (instance, exchange)
    return Begun(to, instance, exchange)


def complete(plane: DataPlane, call: Call, begun: Begun) -> Text:
    """Return the answer to a call whose exchange has one and whose server said nothing before it."""
    outcome, code = Outcome.ERROR, None
    reply: Text = b""
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


class Sent(msgspec.Struct):
    """A warm call that its server has.

    Attributes:
        request_id: The hub's id of it.
        to, instance: Where it went.
        way: By which it went, or None.
        raw_id: The caller's id of it, where it went by a way.
        body: Of the request, where it went by a way.
    """

    request_id: str
    to: Route
    instance: Instance
    exchange: Exchange
    way: "Way | None" = None
    raw_id: bytes = b""
    body: bytes = b""
    _call: Call | None = None

    def __repr__(self) -> str:
        return f"Sent({self.request_id})"  # the rest is the caller's

    @property
    def user_id(self) -> str:
        """The caller's id."""
        return self.call.principal.user_id if self.way is None else self.way.user_id

    @property
    def is_modern(self) -> bool:
        """Whether the caller is of the modern era."""
        return self.call.modern is not None if self.way is None else self.way.is_modern

    @property
    def begun(self) -> Begun:
        """The same, as `relay` goes on with it."""
        return Begun(self.to, self.instance, self.exchange)

    @property
    def call(self) -> Call:
        """The request, made when something has to be read that its way does not know."""
        if self._call is None:
            assert self.way is not None
            message = envelope.parse(self.body)
            self._call = replace(
                self.way.call,
                request_id=self.request_id,
                message=message,
                params=message.inner("params"),
                bytes_in=len(self.body),
                started=self.exchange.started,
            )
        return self._call

    def complete(self, plane: DataPlane) -> tuple[Text, int, list[tuple[bytes, bytes]]]:
        """Return the answer, its HTTP status and headers, once the exchange has one and nothing before it."""
        way, plain = self.way, self.exchange.plain
        if way is not None and plain is not None:
            answer = spliced(self.raw_id, self.instance, plain, modern=way.is_modern)
            if answer is not None:
                self._ended(plane, way, len(answer))
                return answer, 200, []
        answer = complete(plane, self.call, self.begun)
        return answer, *status_of(self.call)

    def _ended(self, plane: DataPlane, way: "Way", bytes_out: int) -> None:
        """Count a call that went its way as over, and keep its record."""
        session, instance, bytes_in = way.session, self.instance, len(self.body)
        if session is not None:
            session.calls.pop(self.raw_id, None)
        plane.pool.release(instance)
        plane.leave(way.user_id, bytes_in)
        duration_s = instance.last_used - self.exchange.started
        way.tally.ended(_OK, duration_s)
        at = plane.clock() - duration_s
        own = (self.request_id, at, duration_s * 1000, _OK, None, bytes_in, bytes_out)
        plane.recorder.add_to(way.series, own)


@dataclass(slots=True, eq=False)
class Way:
    """How a caller's calls of one tool go, as one of them was decided by the code that decides all.

    It belongs to a request head and ends with it, at the next generation of `Access`: user, groups,
    server, credentials and settings are what they were. What else was looked at is looked at again
    before each use: the session and what it wants to hear, the instance, the list that the name was
    found in, the caller's limit. No way exists where each request is written for itself: for servers
    that are told who their user is, for calls that have a span, for progress, for arguments that are
    repeated in headers.

    What each use looks at lies in it, and not in the objects that it is from: of many callers, each
    finds its own cold in the processor's caches.

    Attributes:
        name, meta, has_arguments: What of a call is more than its arguments: the tool, and raw `_meta`.
        user_id, session, is_modern: Whose.
        level: What the session wanted to hear.
        to, instance: Where they go; an instance that is gone is not kept for it.
        form: How it was written.
        listed: The list of tools that the name was found in; None where no list counts.
        tally: Where they are counted.
        series: Where their records are put.
        call: The call that it was learned from, without its message.
    """

    name: str
    meta: bytes
    has_arguments: bool
    user_id: str
    session: Session | None
    is_modern: bool
    level: str
    to: Route
    instance: ReferenceType[Instance]
    form: Form
    listed: tuple[Item, ...] | None
    tally: Tally
    series: Series
    call: Call

    def is_of(self, params: Params) -> bool:
        """Whether it is the way of a call with these parameters."""
        return (
            params.name == self.name
            and bytes(params.meta) == self.meta
            and bool(params.arguments) is self.has_arguments
        )

    def send(
        self, plane: DataPlane, raw_id: bytes, arguments: msgspec.Raw, body: bytes
    ) -> Sent | None:
        """Send a call; None when it has to be decided anew, and nothing was done."""
        instance, session, user = self.instance(), self.session, self.user_id
        if (
            instance is None
            or instance.state is not _READY
            or not plane.has_room(user, len(body))
            or (self.listed is not None and self._listed(plane, instance) is not self.listed)
        ):
            return None
        if session is not None and (
            session.ended or session.log_level != self.level or raw_id in session.calls
        ):
            return None
        exchange = instance.upstream.fill(self.form, arguments)
        if exchange is None:
            return None
        plane.pool.take(instance)
        plane.enter(user, len(body))
        if session is not None:
            session.last_seen = exchange.started
            session.calls[raw_id] = (instance, exchange)
        return Sent(plane.ids.new(), self.to, instance, exchange, self, raw_id, body)

    def _listed(self, plane: DataPlane, instance: Instance) -> tuple[Item, ...]:
        return plane.catalogs.listed(self.to.spec, instance, TOOLS)


_Key = tuple[str, bytes, bool]
"""Name of the tool, raw `_meta`, and whether there are arguments."""


class Ways:
    """The ways of the caller of one request head, by what of a call is more than its arguments."""

    __slots__ = ("_known", "_last")

    def __init__(self) -> None:
        self._known: dict[_Key, Way | None] = {}
        self._last: Way | None = None

    def send(self, plane: DataPlane, inbound: Inbound, body: bytes | Arriving) -> Sent | None:
        """Send a request to its server at once; None when it is none of the fast lane's, and nothing was done."""
        if isinstance(body, Arriving):
            return _decided(plane, inbound, body)
        given = tool_call(body)
        if given is None:
            return _decided(plane, inbound, body)
        raw_id, params = given
        way = self._last
        if way is None or not way.is_of(params):
            way = self._last = self._known.get(_key(params))
        chosen = way is not None and plane.traces is not None and plane.traces.by_chance()
        sent = (
            way.send(plane, raw_id, params.arguments, body)
            if way is not None and not chosen
            else None
        )
        if sent is not None:
            plane.metrics.known += 1
            return sent
        sent = _decided(plane, inbound, body, chosen=chosen)
        if sent is not None and not chosen:
            self._learn(plane, sent, params)
        return sent

    def _learn(self, plane: DataPlane, sent: Sent, params: Params) -> None:
        """Remember a way when it is gone for the second time: a `_meta` of one call never comes again."""
        key = _key(params)
        if key in self._known:
            self._last = self._known[key] = _way(plane, sent.call, sent.begun, key)
        elif len(key[0]) + len(key[1]) <= _MAX_KEY:
            if len(self._known) >= _MAX_WAYS:
                self._known.clear()
            self._known[key] = None


def _key(params: Params) -> _Key:
    return params.name, bytes(params.meta), bool(params.arguments)


def _decided(
    plane: DataPlane, inbound: Inbound, body: bytes | Arriving, *, chosen: bool = False
) -> Sent | None:
    """Read a request, decide it, and send it."""
    try:
        message = body.message() if isinstance(body, Arriving) else envelope.parse(body)
        if not message.is_request:
            return None
        request_id = plane.ids.new()
        call = intake.call_of(
            plane, inbound, message, len(body), request_id=request_id, chosen=chosen
        )
    except (envelope.Malformed, eras.Refused, HubError):
        return None
    begun = begin(plane, call)
    if begun is None:
        return None
    return Sent(request_id, begun.to, begun.instance, begun.exchange, _call=call)


def _way(plane: DataPlane, call: Call, begun: Begun, key: _Key) -> Way | None:
    """Return the way of a call that was sent; None when the next one may have another."""
    to, instance = begun.to, begun.instance
    if call.trace is not None:
        return None  # each has its own span, which its server is told
    listed = None
    if to.rename is not None or call.modern is not None or to.spec.transport is Transport.HTTP:
        listed = plane.catalogs.listed(to.spec, instance, TOOLS)
        if any(item.name == to.name and item.mirrored for item in listed):
            return None
    if to.rename is not None and to.name == envelope.text(call.params.get("name")):
        return None  # a name without its server: what the other servers list counts too
    # copies, so that nothing holds the body; what the arguments are does not matter
    kept: envelope.Members = {
        name: msgspec.Raw(b"" if name == "arguments" else bytes(raw))
        for name, raw in call.params.items()
    }
    form = instance.upstream.form(begun.exchange.outgoing, kept)
    if form is None:
        return None
    record = record_of(plane, call, Outcome.OK, None, 0)
    name, meta, has_arguments = key
    return Way(
        name=sys.intern(name),
        meta=meta,
        has_arguments=has_arguments,
        user_id=call.principal.user_id,
        session=call.session,
        is_modern=call.modern is not None,
        level=call.session.log_level if call.session is not None else "",
        to=to,
        instance=ref(instance),
        form=form,
        listed=listed,
        tally=plane.metrics.of(call.server, call.method),
        series=Series(alike(record)),
        call=replace(call, message=Message({}, b"", call.method), params={}),
    )
