"""The relay: one call from the caller's bytes to its server and back.

Reads top to bottom like architecture's request path: route (spec, permit), limit, lease, exchange,
answer, record. Warm, it touches no database, makes no task and no timer. It knows no HTTP: the
endpoint gives it a `Call` and gets the bytes of the answer.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from mcphub.audit.records import Outcome, RequestRecord
from mcphub.errors import (
    Denied,
    HubError,
    LimitExceeded,
    MissingCredential,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from mcphub.gateway import answers, asking
from mcphub.gateway.calls import Call
from mcphub.gateway.onward import outgoing
from mcphub.gateway.plane import DataPlane, Route, lease, route
from mcphub.gateway.replies import answers_as_tool_error, error_reply, number_of, tool_error
from mcphub.gateway.returning import check_era
from mcphub.gateway.shaping import is_bound, shaped, spliced
from mcphub.gateway.starting import check_permit, leased
from mcphub.gateway.states import bind
from mcphub.gateway.unanswered import refuse
from mcphub.gateway.watching import SUBSCRIBE, UNSUBSCRIBE, check_watched
from mcphub.spawn.instance import Instance
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.upstream import TimedOut
from mcphub.wire import envelope, translate
from mcphub.wire.codes import CANCELLED
from mcphub.wire.envelope import LARGE
from mcphub.wire.pieces import Text, start_of

_FURTHER_S: Final = 0.1


class Begun(msgspec.Struct, frozen=True):
    """A call that its server has got: where it went, whose instance has it, what comes back."""

    to: Route
    instance: Instance
    exchange: Exchange


class Cancelled(HubError):
    """The caller gave the call up."""

    code = "cancelled"


async def relay(plane: DataPlane, call: Call, begun: Begun | None = None) -> Text:
    """Answer one request: here when the hub owns the answer, else by the caller's own instance.

    Args:
        plane: Services.
        call: The request.
        begun: What `warm.begin` made of it, when it turned out to be no warm call.

    Returns:
        One JSON-RPC response on one line. Errors of the hub become JSON-RPC errors, or tool errors
        where the agent can act on them.
    """
    user = call.principal.user_id
    outcome, code = Outcome.ERROR, None
    reply: Text = b""
    has_room = begun is not None or plane.has_room(user, call.bytes_in)
    if begun is None:
        plane.enter(user, call.bytes_in)
    try:
        if not has_room:
            raise LimitExceeded(
                "You have as many calls in flight as you may, or as large ones.",
                hint="Wait for some to end.",
            )
        local = answers.LOCAL.get(call.method)
        if local is not None:
            reply = envelope.result(call.message.id, await local(plane, call))
            outcome = Outcome.OK
        elif begun is not None:
            reply, outcome, code = await _exchange(plane, call, begun, {})
        else:
            reply, outcome, code = await _forward(plane, call, route(plane, call))
    except HubError as error:
        reply, outcome, code = refused(plane, call, error)
    except BaseException:
        outcome = Outcome.CANCELLED
        raise
    finally:
        ended(plane, call, outcome, code, len(reply))
    return reply


def ended(plane: DataPlane, call: Call, outcome: Outcome, code: int | None, bytes_out: int) -> None:
    """Count a call as over and keep its record."""
    plane.leave(call.principal.user_id, call.bytes_in)
    record = record_of(plane, call, outcome, code, bytes_out)
    plane.recorder.add(record)
    if call.trace is not None and plane.traces is not None:
        plane.traces.add(call.trace, record, call.version)
    plane.metrics.of(call.server, call.method).ended(outcome.value, record.duration_ms / 1000)


def answered(plane: DataPlane, call: Call, begun: Begun) -> tuple[Text, Outcome, int | None]:
    """Take a server's answer: remember what follows from it, and shape it for the caller's era.

    Raises:
        HubError: The caller cannot have it.
    """
    plain = begun.exchange.plain
    whole = (
        spliced(call.message.id, begun.instance, plain, modern=call.modern is not None)
        if plain is not None
        else None
    )
    if whole is not None:
        return whole, Outcome.OK, None
    try:
        answer = begun.exchange.answer
    except envelope.Malformed:
        text = f"Server '{begun.instance.server}' answered what is no JSON."
        raise UpstreamFailed(text) from None
    assert answer is not None
    plane.task_owners.take(call.principal.user_id, begun.instance.server, answer)
    reply, outcome, code = shaped(plane.states, call, begun.instance, begun.exchange, answer)
    if outcome is not Outcome.OK:
        said = start_of(reply, LARGE)
        plane.pool.advice.look(begun.instance, said)
        check_era(plane, call.principal, begun.instance, begun.to.spec, said)
    call.failed_with = code
    return reply, outcome, code


async def _forward(plane: DataPlane, call: Call, to: Route) -> tuple[Text, Outcome, int | None]:
    """Lease the caller's instance, exchange bytes, shape the answer for the caller's era."""
    call.server, call.name = to.spec.name, to.name
    if call.method in {SUBSCRIBE, UNSUBSCRIBE}:
        return await _watch(plane, call, to)
    begun, questions = await _begin(plane, call, to)
    return await _exchange(plane, call, begun, questions)


async def _exchange(
    plane: DataPlane, call: Call, begun: Begun, questions: dict[str, envelope.Message]
) -> tuple[Text, Outcome, int | None]:
    """See a call through that its server has; a modern caller that is asked something gets that."""
    instance, exchange = begun.instance, begun.exchange
    waits = False
    try:
        call.instance_id = instance.id
        if not questions:
            await _answer(call, instance, exchange, questions)
            if exchange.answered and not questions:
                if call.modern is not None and is_bound(exchange):
                    await bind(call, plane.readers)
                return answered(plane, call, begun)
        await bind(call, plane.readers)
        result = plane.parked.park(call, instance, exchange, questions, plane.pool.now())
        waits = True
        return envelope.result(call.message.id, result), Outcome.OK, None
    finally:
        if not waits:
            refuse(instance, (one.id for one in questions.values()))
            instance.upstream.cancel(exchange)  # nothing, when it was answered
            plane.pool.release(instance)


async def _begin(
    plane: DataPlane, call: Call, to: Route
) -> tuple[Begun, dict[str, envelope.Message]]:
    """Start a call, or go on with one whose modern client has answered questions."""
    params, known = call.params, plane.access.generation
    if call.modern is not None and "requestState" in params:
        await bind(call, plane.readers)
        check_permit(plane, call, to.permit, known)
        if envelope.text(params["requestState"]).startswith(asking.MARK):
            parked = plane.parked.resume(call)
            parked.exchange.progress_token = call.progress_token
            return Begun(to, parked.instance, parked.exchange), parked.questions
        params = plane.states.open(call, to.spec.name)
    instance = await leased(plane, call, to.spec, to.permit)
    try:
        onward = outgoing(plane, call, to, instance)
        while (exchange := instance.upstream.send_now(onward, params)) is None:
            await instance.upstream.ready(onward, params)
            check_permit(plane, call, to.permit, known)
    except BaseException:
        plane.pool.release(instance)
        raise
    return Begun(to, instance, exchange), {}


async def _watch(plane: DataPlane, call: Call, to: Route) -> tuple[Text, Outcome, int | None]:
    """Answer `resources/subscribe` and `resources/unsubscribe` of a legacy session."""
    instance = await lease(plane, call, to.spec, to.permit)
    try:
        call.instance_id = instance.id
        watched, key = call.session.watched if call.session else set(), (to.spec.name, to.name)
        if (call.method == SUBSCRIBE) == (key in watched):
            answer = {"result": msgspec.Raw(b"{}")}  # as it was before
        elif call.method == SUBSCRIBE:
            check_watched(watched, to.name)
            # before anything is waited for: the same request at the same time counts once
            watched.add(key)
            answer = {}
            try:
                answer = await plane.watches.begin(instance, to.name, plane.timeout_s(to.spec))
            finally:
                if "result" not in answer:
                    watched.discard(key)
        else:
            watched.discard(key)
            answer = await plane.watches.end(instance, to.name, plane.timeout_s(to.spec))
    finally:
        plane.pool.release(instance)
    kept = {name: answer[name] for name in ("result", "error") if name in answer}
    reply = {"jsonrpc": envelope.VERSION, "id": msgspec.Raw(call.message.id), **kept}
    code = translate.code_of(envelope.object_of(kept["error"])) if "error" in kept else None
    return envelope.written(reply), Outcome.OK if code is None else Outcome.ERROR, code


async def _answer(
    call: Call, instance: Instance, exchange: Exchange, questions: dict[str, envelope.Message]
) -> None:
    """Wait for the answer and pass on what comes before it; a caller that goes away cancels.

    Returns without an answer when the server asks a modern client something: see `questions`.
    """
    watched = passed = False
    asked: list[bytes] = []
    session = call.session
    if session is not None:
        session.calls[call.message.id] = (instance, exchange)

    def gone() -> None:
        instance.upstream.cancel(exchange)
        exchange.fail(Cancelled("The caller closed the stream."))

    try:
        while True:
            if not watched and (passed or exchange.armed):
                watched = True
                call.watch(gone if call.modern is not None else _stay)
            events = await exchange.next()
            passed = passed or bool(events)
            await _pass_on(call, instance, exchange, events, asked, questions)
            if questions:
                await _further(call, instance, exchange, asked, questions)
            if questions:
                return
            if exchange.answered and not events:
                return
    finally:
        if session is not None:
            session.calls.pop(call.message.id, None)
            asking.end(session, asked, answered=exchange.answered)


async def _further(
    call: Call,
    instance: Instance,
    exchange: Exchange,
    asked: list[bytes],
    questions: dict[str, envelope.Message],
) -> None:
    """Wait a moment for more: servers that ask several things at once write them one by one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FURTHER_S):
            while not exchange.done:
                events = await exchange.next()
                await _pass_on(call, instance, exchange, events, asked, questions)


async def _pass_on(
    call: Call,
    instance: Instance,
    exchange: Exchange,
    events: list[envelope.Message],
    asked: list[bytes],
    questions: dict[str, envelope.Message],
) -> None:
    """Send notifications and, to a legacy client, questions; a modern client gets those as a result."""
    for event in events:
        if event.method == CANCELLED:
            taken = asking.taken_back(call.session, instance, event, asked, questions)
            if taken:
                await call.emit(taken)
        elif not event.id:
            await call.event(event)
        elif call.session is not None:
            own_id, question = asking.as_request(call.session, instance, event)
            asked.append(own_id)
            await call.emit(question)
        else:
            exchange.asked += 1
            questions[f"q{exchange.asked}"] = event


def _stay() -> None:
    """A legacy client's disconnect is no cancellation (MCP 2025-11-25 transports)."""


def refused(plane: DataPlane, call: Call, error: HubError) -> tuple[bytes, Outcome, int | None]:
    """Return the reply to a call that ended with an error of the hub, and what its record says."""
    outcome, code = _outcome(error), number_of(error)
    call.refused = error
    if isinstance(error, Denied | NotFound):
        call.decision = error.code
    if isinstance(error, MissingCredential):
        error = answers.explain_missing(plane, call, error)
    if answers_as_tool_error(call.method, error):
        value = tool_error(str(error))
        if call.modern is not None:
            value = translate.result_for_modern(call.method, value)
        return envelope.result(call.message.id, value), outcome, code
    call.failed_with = code
    return error_reply(call.message.id, error), outcome, code


def _outcome(error: HubError) -> Outcome:
    if isinstance(error, Denied | NotFound):
        return Outcome.DENIED
    if isinstance(error, TimedOut):
        return Outcome.TIMEOUT
    if isinstance(error, Cancelled):
        return Outcome.CANCELLED
    return Outcome.UNAVAILABLE if isinstance(error, Unavailable | LimitExceeded) else Outcome.ERROR


def record_of(
    plane: DataPlane, call: Call, outcome: Outcome, code: int | None, bytes_out: int
) -> RequestRecord:
    """Return the record of a call that ended now."""
    duration_s = plane.pool.now() - call.started
    return RequestRecord(
        id=call.request_id,
        at=plane.clock() - duration_s,
        duration_ms=duration_s * 1000,
        user_id=call.principal.user_id,
        session=call.session.digest if call.session is not None else "",
        server=call.server or call.target.server,
        method=call.method,
        name=call.name.partition(":")[0] if call.method.startswith("resources/") else call.name,
        instance_id=call.instance_id,
        era=call.era.value,
        client=call.client,
        decision=call.decision,
        outcome=outcome,
        error_code=code,
        bytes_in=call.bytes_in,
        bytes_out=bytes_out,
        trace_id=call.trace_id,
    )
