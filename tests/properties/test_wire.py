"""The wire never changes what it does not own, whatever a client or server sends."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.wire import codes, envelope, sse, translate
from mcphub.wire.toolcall import tool_call

KEYS = st.text(min_size=1, max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=6)
IDS = st.integers(-(2**53), 2**53) | st.text(max_size=20)
LAYOUTS = st.sampled_from([{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@given(OBJECTS, IDS, LAYOUTS)
def test_members_of_a_message_survive_on_one_line(more, id_, layout):
    message = {**more, "jsonrpc": "2.0", "id": id_, "method": "any/method"}
    parsed = envelope.parse(json.dumps(message, **layout).encode())
    line = envelope.join(parsed.members)
    assert b"\n" not in line
    assert json.loads(line) == message
    assert json.loads(parsed.id) == id_


@given(OBJECTS, OBJECTS, st.integers(1, 10**9), LAYOUTS)
def test_params_reach_a_legacy_server_but_for_what_the_hop_owns(params, meta, number, layout):
    owned = dict.fromkeys(codes.HOP_META, "forged")
    given_params = {**params, "_meta": {**meta, **owned}}
    raw = envelope.object_of(json.dumps(given_params, **layout).encode())
    arrived = json.loads(
        envelope.join(
            translate.for_legacy_server(
                translate.onward_to_legacy(raw, ("name", "own")), progress_id=number
            )
        )
    )
    kept = {key: value for key, value in meta.items() if key not in codes.HOP_META}
    assert arrived == {**params, "name": "own", "_meta": {**kept, "progressToken": number}}


@given(OBJECTS)
def test_a_result_keeps_every_member_for_a_modern_client(result):
    shaped = json.loads(
        translate.result_for_modern("tools/list", json.dumps(result).encode(), b'{"name":"s"}')
    )
    for key, value in result.items():
        if key != "_meta":
            assert shaped[key] == value
    assert {"resultType", "ttlMs", "cacheScope", "_meta"} <= set(shaped)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_in_another_way(data):
    with contextlib.suppress(envelope.Malformed):
        envelope.parse(data)


@pytest.mark.parametrize("raw_id", ["null", "1.0", "1e3", "true", "[]", "{}"])
def test_ids_that_are_neither_text_nor_integer_are_refused(raw_id):
    with pytest.raises(envelope.Malformed):
        envelope.parse(b'{"jsonrpc":"2.0","id":%s,"method":"ping"}' % raw_id.encode())


def test_of_a_repeated_member_exactly_one_is_passed_on():
    message = envelope.parse(
        b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"name":"allowed","name":"denied"}}'
    )
    params = envelope.object_of(message.members["params"])
    assert envelope.text(params["name"]) == "denied"
    written = translate.for_legacy_server(params, progress_id=None)
    assert envelope.join(written) == b'{"name":"denied"}'


def test_a_deep_message_is_refused_and_not_a_crash():
    data = (
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    )
    with pytest.raises(envelope.Malformed):
        envelope.parse(data)


NAMES = st.text("abcxyz-_./", min_size=1, max_size=12)
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
JSON_VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


@given(
    st.lists(st.text("abc \u00e9:", min_size=1, max_size=30), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.data(),
)
def test_an_event_stream_reads_the_same_however_it_is_cut(messages, end, data):
    stream = "".join(
        f"event: message{end}data: {text}{end}data:second{end}: comment{end}{end}"
        for text in messages
    ).encode()
    # a last CR may be half of a CRLF: it counts when more comes
    stream += b": end\n\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, found = sse.EventReader(10_000), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:stop])
    assert found == [("message", f"{text}\nsecond".encode()) for text in messages]


@given(
    st.dictionaries(NAMES, JSON_VALUES, max_size=5), st.dictionaries(NAMES, JSON_VALUES, max_size=3)
)
def test_what_belongs_to_no_hop_arrives_at_a_modern_server(params, meta):
    sent = params | {"_meta": meta | {"progressToken": "mine", "dev.mcphub/user-context": "x"}}
    raw = envelope.object_of(json.dumps(sent).encode())
    written = translate.for_modern_server(raw, capabilities=b"{}", client_info=b"{}", progress_id=7)
    arrived = json.loads(envelope.join(written))
    own = arrived.pop("_meta")
    assert arrived == params
    assert {key: own[key] for key in meta} == meta
    assert own["progressToken"] == 7 and "dev.mcphub/user-context" not in own


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=5))
def test_a_result_that_crosses_to_the_other_era_and_back_is_the_same(result):
    raw = json.dumps(result).encode()
    crossed = translate.result_for_modern("tools/list", raw, b'{"name":"s"}')
    assert json.loads(translate.result_for_legacy(crossed)) == result


_MEMBER_TEXTS = st.sampled_from(
    [
        '"jsonrpc":"2.0"', '"jsonrpc":"1.0"', '"id":7', '"id":"\\u0061"', '"id":1.5', '"id":null', '"id":[1]',
        '"method":"tools/call"', '"method":"tools/list"', '"m\\u0065thod":"tools/call"', '"more":1',
        '"params":{"name":"a"}', '"params":{"name":"b","arguments":{"x":1}}', '"params":null',
        '"params":{"name":"a","name":"b","arguments":{"y":"\\n"},"_meta":{"k":1}}',
        '"params":{"name":"a","arguments":[1],"arguments":2}', '"params":{"name":"a","task":{}}',
        '"params":{"name":1}', '"params":{"name":"\\ud800"}', '"params":{"name":"a","_meta":null}',
    ]
)  # fmt: skip


@given(st.lists(_MEMBER_TEXTS, max_size=6), st.sampled_from([",", ", ", ",\n"]))
def test_a_plain_call_is_read_as_the_message_that_it_is(members, comma):
    body = ("{" + comma.join(members) + "}").encode()
    plain = tool_call(body)
    if plain is None:
        return
    message = envelope.parse(body)
    params = envelope.object_of(message.members["params"])
    raw_id, read = plain
    assert (message.id, message.method) == (raw_id, "tools/call")
    assert set(message.members) == {"jsonrpc", "id", "method", "params"}
    assert envelope.text(params.pop("name")) == read.name
    assert bytes(params.pop("arguments", b"")) == bytes(read.arguments)
    assert bytes(params.pop("_meta", b"")) == bytes(read.meta)
    assert not params


@given(OBJECTS, IDS, st.text(min_size=1, max_size=9))
def test_an_ordinary_call_is_a_plain_one(arguments, id_, name):
    params = {"name": name, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": id_, "method": "tools/call", "params": params}
    plain = tool_call(json.dumps(message).encode())
    assert plain is not None and json.loads(plain[0]) == id_
    assert json.loads(bytes(plain[1].arguments)) == arguments


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80"], ids=["no UTF-8", "half a character"])
def test_what_is_no_utf_8_is_no_plain_call(bad):
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":"%b"}}}'
    assert tool_call(body % b"fine") is not None
    assert tool_call(body % bad) is None
