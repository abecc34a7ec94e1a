"""What a modern client carries from one round of a call to the next, sealed (`requestState`).

A modern server's own state travels inside, together with when it ends; it opens only for the same
user, endpoint, server, method and parameters (rules R3, R19). The key is of this process: after a
restart of the hub a call starts again. Not here: calls that wait inside the hub (`gateway.asking`).
Source: MCP 2026-07-28 patterns/mrtr §Security.
"""

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcphub.errors import UpstreamFailed
from mcphub.gateway.calls import Call
from mcphub.gateway.replies import Protocol
from mcphub.ids import Clock, steady_clock
from mcphub.wire import envelope
from mcphub.wire.codes import INVALID_PARAMS
from mcphub.wire.envelope import Members
from mcphub.wire.pieces import Raw

MARK: Final = "s."
"""How a sealed state begins."""
_LIVES_S: Final = 3600.0
_NONCE_BYTES: Final = 12
_RETRY: Final = frozenset({"_meta", "inputResponses", "requestState"})


class Kind(StrEnum):
    """What goes on with a state."""

    SERVERS = "servers"  # the server's own: the request goes on with it
    PAGES = "pages"  # a legacy server sent its user to a page: the request is sent again


class _Sealed(msgspec.Struct, array_like=True):
    kind: Kind
    ends_at: float
    state: str | None


@dataclass(slots=True)
class States:
    """Seals and opens states.

    Args:
        clock: Goes on evenly: how long a state lives is no matter of the wall clock.
    """

    clock: Clock = steady_clock
    _key: AESGCM = field(default_factory=lambda: AESGCM(AESGCM.generate_key(256)), repr=False)

    def seal(self, call: Call, server: str, kind: Kind, state: Raw | None = None) -> str:
        """Return the state for the caller; `state` is the server's own, raw, when it has one."""
        own = None if state is None else bytes(state).decode()
        plain = msgspec.json.encode(_Sealed(kind, self.clock() + _LIVES_S, own))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._key.encrypt(nonce, plain, _bound(call, server))
        return MARK + base64.urlsafe_b64encode(nonce + sealed).decode()

    def open(self, call: Call, server: str) -> Members:
        """Return the parameters with which a call goes on at its server.

        Raises:
            Protocol: -32602: the state is no sealed one of this user, server, method and parameters,
                or too old.
            UpstreamFailed: The user declined to open a page that the server needs.
        """
        found = self._opened(envelope.text(call.params.get("requestState")), _bound(call, server))
        if found is None or found.ends_at < self.clock():
            raise unknown_state()
        params = dict(call.params)
        del params["requestState"]
        if found.kind is Kind.SERVERS:
            if found.state is not None:
                params["requestState"] = msgspec.Raw(found.state.encode())
            return params
        answers = envelope.object_of(params.pop("inputResponses", None))
        actions = [envelope.text(envelope.object_of(raw).get("action")) for raw in answers.values()]
        if not actions or any(action != "accept" for action in actions):
            raise UpstreamFailed(
                f"Server '{server}' needs a page to be opened, which was declined.", code="declined"
            )
        return params

    def _opened(self, token: str, bound: bytes) -> _Sealed | None:
        try:
            data = base64.b64decode(token.removeprefix(MARK), altchars=b"-_", validate=True)
            plain = self._key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)
        except (binascii.Error, ValueError, InvalidTag):
            return None
        return msgspec.json.decode(plain, type=_Sealed)


def unknown_state() -> Protocol:
    """Return the error for a state that is not the caller's, or of another request, or too old."""
    return Protocol(
        INVALID_PARAMS, "This requestState belongs to no call that waits: start the call again."
    )


def digest_of(call: Call) -> str:
    """Return a digest of a request's parameters, without what differs between a call and its retry."""
    digest = hashlib.sha256()
    for name, raw in sorted(call.params.items()):
        if name not in _RETRY:
            digest.update(json.dumps([name, len(raw)]).encode() + bytes(raw))
    return digest.hexdigest()


def _bound(call: Call, server: str) -> bytes:
    user, path = call.principal.user_id, call.target.path
    fields = ["mcphub state 1", user, path, server, call.method, digest_of(call)]
    return json.dumps(fields).encode()
