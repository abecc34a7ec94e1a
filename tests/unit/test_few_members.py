"""Of what is large, few members and items are read: a microsecond for each of a million is a second of everybody."""

import json
import time

import msgspec
import pytest

from mcphub.wire import digest, envelope, splicing
from mcphub.wire.pieces import Pieces

MANY = 400_000
MEMBERS = b"{" + b",".join(b'"%d":1' % number for number in range(MANY)) + b"}"
ITEMS = b"[" + b",".join([b"{}"] * MANY) + b"]"


def test_too_many_are_given_up_early():
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    whole = fastest(lambda: decoder.decode(MEMBERS))
    assert fastest(lambda: envelope.object_of(MEMBERS)) < whole / 3
    line = b'{"jsonrpc":"2.0","id":1,"result":%b}' % MEMBERS
    assert fastest(lambda: splicing.plain_result(line)) < whole / 3
    assert envelope.object_of(MEMBERS) == {} == envelope.object_of(ITEMS)
    assert envelope.array_of(ITEMS) == []


def test_what_is_large_and_has_few_members_is_read_as_what_is_small():
    large = "x" * 70_000
    members = envelope.object_of(json.dumps({"a": large, "b": 1}).encode())
    assert {type(name) for name in members} == {str} and bytes(members["b"]) == b"1"
    assert envelope.join(members) == b'{"a":"%b","b":1}' % large.encode()
    assert [len(raw) for raw in envelope.array_of(json.dumps([large, 1]).encode())] == [70_002, 1]


def fastest(what):
    best = 1e9
    for _ in range(3):
        began = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - began)
    return best


def test_what_a_user_context_is_bound_to_has_a_most_of_values():
    for text in (b"[" + b"1," * digest.MOST + b"1]", MEMBERS, b"[" + b"[1]," * MANY + b"1]"):
        with pytest.raises(digest.TooManyValues):
            digest.Digest("tools/call", {"arguments": msgspec.Raw(text)}).finish()
    fits = b"[" + b"1," * (digest.MOST - 100) + b"1]"
    assert digest.Digest("tools/call", {"arguments": msgspec.Raw(fits)}).finish()


NESTED = b'{"name":"},{","more":[{"a":"],"},{"b":[1,2]}],"text":"\\"},"}'


@pytest.mark.parametrize(
    "items",
    [[NESTED] * 3000, [b'{"a":"%b"}' % (b"x" * 200_000)] * 3, [b"1", b'"},"'] * 2000, [b"[{},{}]"] * 5000, []],
)  # fmt: skip
@pytest.mark.parametrize("step", [1000, 4096, 70_000])
def test_items_of_a_large_array_are_the_same_some_at_a_time(items, step):
    text = b" [ " + b",".join(items) + b" ] "
    pieces = Pieces(text[at : at + step] for at in range(0, len(text), step))
    turns = list(envelope.items_in_turns(pieces))
    assert [bytes(raw) for turn in turns for raw in turn] == items
    if items[:1] == [NESTED]:
        assert len(turns) >= 3
        assert max(sum(map(len, turn)) for turn in turns) < 3 * 70_000


def test_items_of_no_array_are_refused_and_too_many_too():
    for text in (b'{"a":{},"b":{}}' + b" " * 100_000, b"1"):
        with pytest.raises((msgspec.MsgspecError, envelope.TooMany)):
            list(envelope.items_in_turns(Pieces([text])))
    many = b"[" + b",".join([b'{"a":1}'] * 40_000) + b"]"
    assert sum(map(len, envelope.items_in_turns(Pieces([many])))) == 40_000, "who asks counts"
