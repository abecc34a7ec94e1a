"""The wire never changes what it does not own, whatever a client or server sends."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.wire import codes, envelope, translate

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
        translate.for_legacy_server(raw, progress_id=number, rename=("name", "own"))
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
    assert translate.for_legacy_server(params, progress_id=None) == b'{"name":"denied"}'


def test_a_deep_message_is_refused_and_not_a_crash():
    data = (
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    )
    with pytest.raises(envelope.Malformed):
        envelope.parse(data)
