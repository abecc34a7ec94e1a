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
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcphub.errors import UpstreamFailed
from mcphub.gateway.calls import Call
from mcphub.gateway.replies import Protocol
from mcphub.gateway.shares import Readers
from mcphub.ids import Clock, steady_clock
from mcphub.wire import envelope
from mcphub.wire.arriving import STEP_S
from mcphub.wire.codes import INVALID_PARAMS
from mcphub.wire.envelope import LARGE, Members
from mcphub.wire.pieces import Pieces, Raw, parts_of

MARK: Final = "s."
"""How a sealed state begins."""
_LIVES_S: Final = 3600.0
_NONCE_BYTES: Final = 12
_LONGEST: Final = LARGE
"""Bytes of a server's own state: whoever seals more keeps others waiting."""
_LONGEST_SEALED: Final = 4 * _LONGEST
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
        """Return the state for the caller; `state` is the server's own, raw, when it has one.

        Raises:
            UpstreamFailed: That is too long.
        """
        if state is not None and len(state) > _LONGEST:
            text = f"Server '{server}' gave its client a state of over {_LONGEST // 1024} KiB to carry."
            raise UpstreamFailed(text)
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
        raw = call.params.get("requestState", b"")
        token = envelope.text(raw) if len(raw) <= _LONGEST_SEALED else ""
        found = self._opened(token, _bound(call, server))
        if found is None or found.ends_at < self.clock():
            raise unknown_state()
        params = dict(call.params)
        del params["requestState"]
        if found.kind is Kind.SERVERS:
            if found.state is not None:
                params["requestState"] = msgspec.Raw(found.state.encode())
            return params
        answers = call.message.inner("params", "inputResponses")
        params.pop("inputResponses", None)
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


async def bind(call: Call, readers: Readers) -> None:
    """Take the digest of a large request in its user's share of the loop's time, for `digest_of`."""
    if not call.digest and call.bytes_in > LARGE:
        taken = _Digest(call.params)
        await readers.of(call.principal.user_id).catch_up(taken)
        call.digest = taken.value


def digest_of(call: Call) -> str:
    """Return a digest of a request's parameters, without what differs between a call and its retry."""
    if not call.digest:
        taken = _Digest(call.params)
        while not taken.read():
            pass
        call.digest = taken.value
    return call.digest


class _Digest:
    """Takes a digest of parameters in steps.

    Attributes:
        value: The digest, once `read` has returned True.
    """

    def __init__(self, params: Members) -> None:
        self.value = ""
        self._hash = hashlib.blake2b()
        self._parts = self._all(params)

    def read(self) -> bool:
        """Go on for a step; returns whether it is done."""
        until = time.perf_counter() + STEP_S
        for part in self._parts:
            self._hash.update(part)
            if time.perf_counter() >= until:
                return False
        self.value = self._hash.hexdigest()
        return True

    def _all(self, params: Members) -> Iterator[bytes]:
        for name, raw in sorted(params.items()):
            if name not in _RETRY:
                yield json.dumps([name, len(raw)]).encode()
                yield from parts_of(raw if isinstance(raw, Pieces) else bytes(raw))


def _bound(call: Call, server: str) -> bytes:
    user, path = call.principal.user_id, call.target.path
    fields = ["mcphub state 1", user, path, server, call.method, digest_of(call)]
    return json.dumps(fields).encode()
