"""What a server asks of its client in the middle of a call: elicitation and sampling.

A legacy client gets the question as a JSON-RPC request on the stream of the call that it belongs to,
under an id of the hub's own, and posts its answer. A modern client gets `input_required`; meanwhile
the call is **parked** here, found again only by its owner with the very same request (rules R3, R19):
the `requestState` is a random key to this memory, not a sealed text, since the open call lives in
this process anyway. Parked calls are bounded in number and time. Questions that the calling client
did not declare are answered with an error at once, so that a server never waits for nobody.

Sources: MCP 2025-11-25 client/elicitation, client/sampling; 2026-07-28 patterns/mrtr.
"""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mcphub.errors import LimitExceeded, Unavailable
from mcphub.gateway.calls import Call
from mcphub.gateway.sessions import Session
from mcphub.gateway.shares import Uploads
from mcphub.gateway.states import digest_of, unknown_state
from mcphub.gateway.unanswered import refuse
from mcphub.spawn.instance import Instance
from mcphub.upstream.exchange import Exchange
from mcphub.wire import envelope, translate
from mcphub.wire.codes import CANCELLED
from mcphub.wire.envelope import Message
from mcphub.wire.pieces import Text

_PARKED_S: Final = 600.0
_PARKED_PER_USER: Final = 16
_PARKED: Final = 16_384
_OPEN_QUESTIONS: Final = 64
"""Of one session, while those of a call stay open that is over."""
MARK: Final = "w."
"""How the state of a parked call begins."""


def as_request(session: Session, instance: Instance, question: Message) -> tuple[bytes, Text]:
    """Return the new raw id and the request for a legacy client; its answer comes back by that id (R2)."""
    own_id = envelope.raw(f"mcphub-{secrets.token_hex(8)}")
    session.asked[bytes(own_id)] = (instance, question.id)
    return bytes(own_id), envelope.written(question.members | {"id": own_id})


def take_answer(session: Session, message: Message) -> bool:
    """Hand a legacy client's answer to the server that asked; False when nobody asked that."""
    found = session.asked.pop(message.id, None)
    if found is None:
        return False
    instance, upstream_id = found
    instance.upstream.reply(upstream_id, message.members)
    return True


def end(session: Session, asked: list[bytes], *, answered: bool) -> None:
    """See to what a legacy client was asked in a call that is over, and has not answered.

    Over stdio a question may belong to another call of the same user: after an answer it stays open, since
    its client still answers. A client that gave the call up does not.

    Args:
        session: The client's.
        asked: Raw ids of the questions.
        answered: The call has ended with its answer.
    """
    still = [own_id for own_id in asked if own_id in session.asked]
    if answered and len(session.asked) <= _OPEN_QUESTIONS:
        return
    for own_id in still:
        instance, upstream_id = session.asked.pop(own_id)
        refuse(instance, [upstream_id])


def taken_back(
    session: Session | None,
    instance: Instance,
    told: Message,
    asked: list[bytes],
    questions: dict[str, Message],
) -> bytes:
    """Return what a legacy client is to be told of a question that its server waits for no more, or b"".

    Args:
        session: The legacy client's; None for a modern one, which is not asked if it was not yet.
        instance: Whose question it is.
        told: The server's `notifications/cancelled`.
        asked: Raw ids under which the client was asked in this call.
        questions: What a modern client is still to be asked.
    """
    params = envelope.object_of(told.members.get("params"))
    upstream_id = bytes(params.get("requestId", b""))
    for key in [key for key, one in questions.items() if one.id == upstream_id]:
        del questions[key]
    if session is None:
        return b""
    for own_id in asked:
        if session.asked.get(own_id) == (instance, upstream_id):
            del session.asked[own_id]
            params["requestId"] = msgspec.Raw(own_id)
            return envelope.notification(CANCELLED, envelope.join(params))
    return b""


@dataclass(slots=True)
class Parked:
    """A call that waits for its modern client.

    Attributes:
        user_id, path, method, digest: What a retry must have in common with the call.
        questions: Key in `inputRequests` -> the server's question.
        size: Bytes of the call's body.
        expires_at: Loop time in seconds.
    """

    user_id: str
    path: str
    method: str
    digest: str
    instance: Instance
    exchange: Exchange
    questions: dict[str, Message]
    size: int
    expires_at: float


@dataclass(slots=True)
class ParkedCalls:
    """All parked calls of one hub process.

    Args:
        release: Ends the lease of an instance.
        held: Where the bodies of the calls are counted.
    """

    release: Callable[[Instance], None]
    held: Uploads
    _by_state: dict[str, Parked] = field(default_factory=dict)
    _of_user: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self._by_state)

    def park(
        self,
        call: Call,
        instance: Instance,
        exchange: Exchange,
        questions: dict[str, Message],
        now: float,
    ) -> Text:
        """Keep an open call and return the `input_required` result for its client.

        Raises:
            LimitExceeded: The caller has too many parked calls.
            Unavailable: All callers together have.
        """
        user_id = call.principal.user_id
        if len(self._by_state) >= _PARKED:
            raise Unavailable(
                "The hub holds as many calls that wait for an answer as it may.",
                hint="Try again soon.",
                retry_after_s=5,
            )
        if self._of_user[user_id] >= _PARKED_PER_USER:
            raise LimitExceeded(
                "Too many of your calls wait for an answer.", hint="Answer some of them."
            )
        if not self.held.take(user_id, call.bytes_in):
            raise LimitExceeded(
                "Your calls that wait are as large as they may be.", hint="Answer some of them."
            )
        state = MARK + secrets.token_urlsafe(32)
        expires_at = now + _PARKED_S
        exchange.deadline = max(exchange.deadline, expires_at)
        self._of_user[user_id] += 1
        self._by_state[state] = Parked(
            user_id,
            call.target.path,
            call.method,
            digest_of(call),
            instance,
            exchange,
            questions,
            call.bytes_in,
            expires_at,
        )
        asked = {key: translate.input_request(one) for key, one in questions.items()}
        return translate.input_required(asked, state)

    def resume(self, call: Call) -> Parked:
        """Return the parked call that a retry continues, with the answers handed to its server.

        What was not answered stays in `questions`, to be asked again.

        Raises:
            Protocol: -32602: no such call of this user, method and parameters; it may have expired.
        """
        state = envelope.text(call.params.get("requestState"))
        parked = self._by_state.get(state)
        same = parked is not None and (
            parked.user_id,
            parked.path,
            parked.method,
            parked.digest,
            parked.instance.server,
        ) == (
            call.principal.user_id,
            call.target.path,
            call.method,
            digest_of(call),
            call.server,  # the one that is permitted now: a bare name may mean another by then
        )
        if parked is None or not same:
            raise unknown_state()
        self._forget(state)
        answers = call.message.inner("params", "inputResponses")
        for key in [key for key in parked.questions if key in answers]:
            question = parked.questions.pop(key)
            parked.instance.upstream.reply(question.id, {"result": answers[key]})
        return parked

    def sweep(self, now: float) -> None:
        """Give up calls whose client did not come back."""
        for state, parked in list(self._by_state.items()):
            if now >= parked.expires_at or parked.exchange.failure is not None:
                self._forget(state)
                refuse(parked.instance, (one.id for one in parked.questions.values()))
                parked.instance.upstream.cancel(parked.exchange)
                self.release(parked.instance)

    def _forget(self, state: str) -> None:
        parked = self._by_state.pop(state)
        self.held.give(parked.user_id, parked.size)
        self._of_user[parked.user_id] -= 1
        if not self._of_user[parked.user_id]:
            del self._of_user[parked.user_id]
