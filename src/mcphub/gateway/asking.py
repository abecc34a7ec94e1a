"""What a server asks of its client in the middle of a call: elicitation and sampling.

A legacy client gets the question as a JSON-RPC request on the stream of the call that it belongs to,
under an id of the hub's own, and posts its answer. A modern client gets `input_required`; meanwhile
the call is **parked** here, found again only by its owner with the very same request (rules R3, R19):
the `requestState` is a random key to this memory, not a sealed text, since the open call lives in
this process anyway. Parked calls are bounded in number and time. Questions that the calling client
did not declare are answered with an error at once, so that a server never waits for nobody.

Sources: MCP 2025-11-25 client/elicitation, client/sampling; 2026-07-28 patterns/mrtr.
"""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from mcphub.errors import LimitExceeded
from mcphub.gateway.calls import Call
from mcphub.gateway.replies import Protocol
from mcphub.gateway.sessions import Session
from mcphub.spawn.instance import Instance
from mcphub.upstream.exchange import Exchange
from mcphub.wire import envelope
from mcphub.wire.codes import INVALID_PARAMS
from mcphub.wire.envelope import Message

_PARKED_S: Final = 600.0
_PARKED_PER_USER: Final = 16
_RETRY: Final = frozenset({"_meta", "inputResponses", "requestState"})


def as_request(session: Session, instance: Instance, question: Message) -> tuple[bytes, bytes]:
    """Return the new raw id and the request for a legacy client; its answer comes back by that id (R2)."""
    own_id = envelope.raw(f"mcphub-{secrets.token_hex(8)}")
    session.asked[bytes(own_id)] = (instance, question.id)
    return bytes(own_id), envelope.join(question.members | {"id": own_id})


def take_answer(session: Session, message: Message) -> bool:
    """Hand a legacy client's answer to the server that asked; False when nobody asked that."""
    found = session.asked.pop(message.id, None)
    if found is None:
        return False
    instance, upstream_id = found
    instance.upstream.reply(upstream_id, message.members)
    return True


@dataclass(slots=True)
class Parked:
    """A call that waits for its modern client.

    Attributes:
        user_id, path, method, digest: What a retry must have in common with the call.
        questions: Key in `inputRequests` -> the server's question.
        expires_at: Loop time in seconds.
    """

    user_id: str
    path: str
    method: str
    digest: str
    instance: Instance
    exchange: Exchange
    questions: dict[str, Message]
    expires_at: float


@dataclass(slots=True)
class ParkedCalls:
    """All parked calls of one hub process.

    Args:
        release: Ends the lease of an instance.
    """

    release: Callable[[Instance], None]
    _by_state: dict[str, Parked] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_state)

    def park(
        self,
        call: Call,
        instance: Instance,
        exchange: Exchange,
        questions: dict[str, Message],
        now: float,
    ) -> bytes:
        """Keep an open call and return the `input_required` result for its client.

        Raises:
            LimitExceeded: The caller has too many parked calls.
        """
        user_id = call.principal.user_id
        if sum(parked.user_id == user_id for parked in self._by_state.values()) >= _PARKED_PER_USER:
            raise LimitExceeded(
                "Too many of your calls wait for an answer.", hint="Answer some of them."
            )
        state = secrets.token_urlsafe(32)
        expires_at = now + _PARKED_S
        exchange.deadline = max(exchange.deadline, expires_at)
        self._by_state[state] = Parked(
            user_id,
            call.target.path,
            call.method,
            _digest(call),
            instance,
            exchange,
            questions,
            expires_at,
        )
        asked = {
            key: msgspec.Raw(
                envelope.join(
                    {
                        name: value
                        for name, value in question.members.items()
                        if name in {"method", "params"}
                    }
                )
            )
            for key, question in questions.items()
        }
        return envelope.join(
            {
                "resultType": msgspec.Raw(b'"input_required"'),
                "inputRequests": msgspec.Raw(envelope.join(asked)),
                "requestState": envelope.raw(state),
            }
        )

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
        ) == (
            call.principal.user_id,
            call.target.path,
            call.method,
            _digest(call),
        )
        if parked is None or not same:
            raise Protocol(
                INVALID_PARAMS,
                "This requestState belongs to no call that waits: start the call again.",
            )
        del self._by_state[state]
        answers = envelope.object_of(call.params.get("inputResponses"))
        for key in [key for key in parked.questions if key in answers]:
            question = parked.questions.pop(key)
            parked.instance.upstream.reply(question.id, {"result": answers[key]})
        return parked

    def sweep(self, now: float) -> None:
        """Give up calls whose client did not come back."""
        for state, parked in list(self._by_state.items()):
            if now >= parked.expires_at or parked.exchange.failure is not None:
                del self._by_state[state]
                parked.instance.upstream.cancel(parked.exchange)
                self.release(parked.instance)

    def end_of_user(self, user_id: str) -> None:
        """Give up all parked calls of a user."""
        for parked in self._by_state.values():
            if parked.user_id == user_id:
                parked.expires_at = 0.0


def _digest(call: Call) -> str:
    parts = [
        f"{name}:".encode() + bytes(raw)
        for name, raw in sorted(call.params.items())
        if name not in _RETRY
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
