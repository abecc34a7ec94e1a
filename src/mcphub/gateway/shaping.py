"""The answer of a server as its caller may see it: the caller's id, the caller's era, bound states."""

from typing import Final

import msgspec
from msgspec import UNSET

from mcphub.audit.records import Outcome
from mcphub.errors import UpstreamFailed
from mcphub.gateway.calls import Call
from mcphub.gateway.replies import Protocol
from mcphub.gateway.states import Kind, States
from mcphub.spawn.instance import Instance
from mcphub.upstream.exchange import Exchange
from mcphub.wire import envelope, eras, translate
from mcphub.wire.codes import MISSING_CAPABILITY, Era
from mcphub.wire.envelope import Members, Message
from mcphub.wire.extensions import TASK, TASKS, declares
from mcphub.wire.pieces import Raw, Text
from mcphub.wire.splicing import PlainResult

_EMPTY: Final = 64
_MODERN: Final = Era.MODERN


def shaped(
    states: States, call: Call, instance: Instance, exchange: Exchange, answer: Message
) -> tuple[Text, Outcome, int | None]:
    """Return the answer under the caller's id and in the caller's era, the outcome and the error code.

    Raises:
        UpstreamFailed: It is of a kind that the caller's era does not have.
        Protocol: The server asks what the client did not declare.
    """
    members = answer.members
    members["id"] = msgspec.Raw(call.message.id)
    modern_server = instance.upstream.era is Era.MODERN
    if "error" in members:
        return _error(states, call, instance, exchange, answer)
    result = answer.inner("result")
    outcome = _outcome(call, result)
    if modern_server and call.modern is not None:
        kind = translate.result_type(result)
        if kind == translate.INPUT_REQUIRED:
            members["result"] = _bound(states, call, instance, exchange, answer)
        elif kind == TASK and not declares(call.modern.capabilities, TASKS):
            raise Protocol(
                MISSING_CAPABILITY,
                f"Server '{instance.server}' answered with a task, which your client did not declare.",
                {"requiredCapabilities": {"extensions": {TASKS: {}}}},
            )
    elif modern_server:
        if translate.result_type(result) != translate.COMPLETE:
            raise UpstreamFailed(
                f"Server '{instance.server}' gave a result of a kind that this client cannot have."
            )
        if result:
            members["result"] = envelope.object_raw(translate.members_for_legacy(result))
    elif call.modern is not None and (result or _is_empty(members.get("result", b"{}"))):
        info = instance.upstream.server_info
        shown = translate.members_for_modern(call.method, result, info)
        members["result"] = envelope.object_raw(shown)
    return envelope.written(members), outcome, None


def spliced(raw_id: bytes, instance: Instance, plain: PlainResult, *, modern: bool) -> bytes | None:
    """Return a tool's plain result under the caller's id and in the caller's era, read no further than needed.

    None when something in it may matter to the hub: then it is read, and `shaped`. A modern server's
    plain result is a complete one: nothing else is left unread (`ModernUpstream`).

    Args:
        raw_id: The caller's.
        instance: Where it comes from.
        plain: The result of a `tools/call`; an upstream leaves no other unread.
        modern: The caller is of the modern era.
    """
    told = plain.told
    if told.is_error or told.task is not UNSET or told.task_id is not UNSET:
        return None
    modern_server = instance.upstream.era is _MODERN
    if modern_server is modern:
        return plain.answer(raw_id)
    if modern_server:
        return envelope.result(raw_id, translate.result_for_legacy(plain.result))
    if told.kind is not UNSET or told.meta is not UNSET:
        return None
    return plain.answer(raw_id, instance.upstream.added_for_modern)


def is_bound(exchange: Exchange) -> bool:
    """Whether a modern caller gets a state with an answer: it asks something, or may."""
    answer = exchange.answer if exchange.plain is None else None
    if answer is None:
        return False
    is_asking = translate.result_type(answer.inner("result")) == translate.INPUT_REQUIRED
    return is_asking or "error" in answer.members


def _error(
    states: States, call: Call, instance: Instance, exchange: Exchange, answer: Message
) -> tuple[Text, Outcome, int | None]:
    error = answer.inner("error")
    code, shown = translate.code_of(error), error
    modern_server = instance.upstream.era is Era.MODERN
    if modern_server:
        if call.modern is None:
            code, shown = translate.error_for_legacy(call.method, error)
        return _failed(answer, error, shown), Outcome.ERROR, code
    if call.modern is None:
        return _failed(answer, error, shown), Outcome.ERROR, code
    pages = translate.url_requests(error) if eras.ELICIT_URL in exchange.outgoing.asks else {}
    if pages:
        # the server has ended the call: it is sent again when the user has been there
        state = states.seal(call, instance.server, Kind.PAGES)
        result = translate.input_required(pages, state)
        return envelope.result(call.message.id, result), Outcome.OK, None
    in_vain = exchange.refused if exchange.refused not in exchange.outgoing.asks else ""
    code, shown = translate.error_for_modern(error, in_vain)
    return _failed(answer, error, shown), Outcome.ERROR, code


def _failed(answer: Message, error: Members, shown: Members) -> Text:
    """Return the answer with its error as it is shown; as it came, where nothing is changed."""
    if shown is error:
        return envelope.written(answer.members)
    return envelope.written(answer.members | {"error": envelope.object_raw(shown)})


def _bound(
    states: States, call: Call, instance: Instance, exchange: Exchange, answer: Message
) -> Raw:
    """Return an `input_required` result whose state only this caller can use, for this request."""
    members = answer.inner("result")
    for raw in answer.inner("result", "inputRequests").values():
        request = envelope.object_of(raw)
        asked = eras.asked_by(envelope.text(request.get("method")), request.get("params"))
        if asked in eras.NEEDS and asked not in exchange.outgoing.asks:
            raise Protocol(
                MISSING_CAPABILITY,
                f"Server '{instance.server}' asks what your client did not declare.",
                {"requiredCapabilities": eras.NEEDS[asked]},
            )
    if "requestState" in members:
        state = states.seal(call, instance.server, Kind.SERVERS, members["requestState"])
        members["requestState"] = envelope.raw(state)
    return envelope.object_raw(members)


def _is_empty(raw: bytes | Raw) -> bool:
    """Whether it is an object without members; what is large and none was read for nothing."""
    return len(raw) < _EMPTY and bytes(raw).split() in ([b"{}"], [b"{", b"}"])


def _outcome(call: Call, result: Members) -> Outcome:
    if call.method == "tools/call" and bytes(result.get("isError", b"")) == b"true":
        return Outcome.TOOL_ERROR
    return Outcome.OK
