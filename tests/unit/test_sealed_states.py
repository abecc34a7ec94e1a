"""What a requestState is bound to: the same request of the same user, however large, read in steps or at once."""

import dataclasses

import msgspec
import pytest

from mcphub.errors import UpstreamFailed
from mcphub.gateway import states
from mcphub.gateway.calls import Call, Target
from mcphub.gateway.replies import Protocol
from mcphub.gateway.shares import Readers
from mcphub.gateway.states import Kind, States, bind, digest_of
from mcphub.policy.model import Principal, Role
from mcphub.wire.envelope import Message
from mcphub.wire.pieces import Pieces

pytestmark = pytest.mark.anyio
LARGE = b'"' + b"abcd" * 1_000_000 + b'"'
USERS = {
    name: Principal(f"u_{name}", name, 1, Role.USER, frozenset(), f"k_{name}")
    for name in ("alice", "bob")
}


def call(user="alice", arguments=LARGE, *, size=0, **more):
    def pieces(step):
        return Pieces(arguments[at : at + step] for at in range(0, len(arguments), step))

    params = {
        "name": msgspec.Raw(b'"ask"'),
        "arguments": pieces(size) if size else msgspec.Raw(arguments),
    }
    params |= {name: msgspec.Raw(value) for name, value in more.items()}
    message = Message({}, b"1", "tools/call")
    return Call(
        "r",
        USERS[user],
        Target(server="s"),
        message,
        params,
        b"",
        None,
        None,
        None,
        None,
        len(arguments),
    )


async def test_the_digest_is_the_same_in_steps_and_at_once_and_wherever_it_is_cut(monkeypatch):
    one, other = call(), call(size=70_001)
    await bind(other, Readers())
    monkeypatch.setattr(states, "_Digest", None)  # it is known: nothing is read again
    kept = digest_of(other)
    monkeypatch.undo()
    assert kept == digest_of(one) == digest_of(call(_meta=b"{}", requestState=b'"s"'))
    assert digest_of(call(arguments=LARGE[:-2] + b'x"')) != kept
    assert digest_of(call(more=b"1")) != kept


async def test_a_copy_of_a_call_has_no_digest_of_the_other():
    one = call()
    digest_of(one)
    assert not dataclasses.replace(one, params={}).digest


async def test_a_state_opens_for_its_own_user_and_request():
    sealer, server = States(), "s"
    token = sealer.seal(call(size=50_000), server, Kind.SERVERS, msgspec.Raw(b'"own"'))
    raw = b'"%b"' % token.encode()
    opened = sealer.open(call(size=999_999, requestState=raw), server)
    assert bytes(opened["requestState"]) == b'"own"'
    for other in (call("bob", requestState=raw), call(arguments=b"{}", requestState=raw)):
        with pytest.raises(Protocol):
            sealer.open(other, server)
    with pytest.raises(Protocol):
        sealer.open(call(requestState=raw), "another")


async def test_states_over_the_bound_are_neither_sealed_nor_read():
    sealer = States()
    most = b'"' + b"\\n" * 131_000 + b'"'
    token = sealer.seal(call(), "s", Kind.SERVERS, msgspec.Raw(most))
    raw = b'"%b"' % token.encode()
    assert bytes(sealer.open(call(requestState=raw), "s")["requestState"]) == most
    with pytest.raises(UpstreamFailed, match="256 KiB"):
        sealer.seal(call(), "s", Kind.SERVERS, msgspec.Raw(b'"' + b"x" * 300_000 + b'"'))
    with pytest.raises(Protocol):
        sealer.open(call(requestState=b'"s.' + b"A" * 2_000_000 + b'"'), "s")
