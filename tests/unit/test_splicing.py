"""A plain result under another id is the same message with another id, and nothing else passes for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from mcphub.wire.splicing import plain_result

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RESULTS = st.dictionaries(st.text(), VALUES, max_size=4)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": ")])


def written(result, number, separators, order):
    message = {"jsonrpc": "2.0", "id": number, "result": result}
    return json.dumps({name: message[name] for name in order}, separators=separators).encode()


@given(
    RESULTS, st.integers(0, 10**12), SEPARATORS, st.sampled_from([("jsonrpc", "id", "result"), ("result", "jsonrpc", "id")])
)  # fmt: skip
def test_a_plain_result_gets_another_id_and_changes_in_nothing_else(
    result, number, separators, order
):
    line = written(result, number, separators, order)
    plain = plain_result(line)
    assert plain is not None and plain.id == number
    told = json.loads(plain.answer(b'"mine"'))
    assert told == {"jsonrpc": "2.0", "id": "mine", "result": result}


@given(
    RESULTS, SEPARATORS, st.sampled_from([("jsonrpc", "id", "result"), ("result", "jsonrpc", "id")])
)
def test_members_are_added_to_the_result_and_to_nothing_else(result, separators, order):
    result.pop("new", None)
    plain = plain_result(written(result, 7, separators, order))
    assert plain is not None
    told = json.loads(plain.answer(b"1", b'"new":{"a":[1]}'))
    assert told == {"jsonrpc": "2.0", "id": 1, "result": {"new": {"a": [1]}, **result}}


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"[]", b'{"jsonrpc":"2.0","id":1,"result":{}', b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":"1","result":{}}', b'{"jsonrpc":"2.0","id":-1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{}}', b'{"jsonrpc":"1.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","method":"x","id":1,"result":{}}', b'{"jsonrpc":"2.0","id":1.5,"result":{}}',
        b'{"id":1,"jsonrpc":"2.0","result":{}}', b'{"result":{},"jsonrpc":"2.0"}', b'{"result":{},"id":1}',
        b'{"result":{},"jsonrpc":"2.0","id":1} ', b'{"result":"},\\"jsonrpc\\":\\"2.0\\",\\"id\\":1}"}',
        b'{"result":{"x":{},"jsonrpc":"2.0","id":1}}', b'{"jsonrpc":"2.0","id":' + b"9" * 400 + b',"result":{}}',
        # a second id, a second result, a second message: another request's answer
        b'{"jsonrpc":"2.0","id":1,"result":{},"id":2,"x":{}}', b'{"jsonrpc":"2.0","id":1,"result":{"a":1},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{}}',
        b'{"result":{},"id":2,"x":{},"jsonrpc":"2.0","id":1}', b'{"result":{"a":1},"result":{},"jsonrpc":"2.0","id":1}',
        b'{"result":{},"jsonrpc":"2.0","id":2},{"result":{},"jsonrpc":"2.0","id":1}',
        # what ends a line for a reader of an event stream, and what is no JSON
        b'{"jsonrpc":"2.0","id":1,"result":{"x":"\r\revent: endpoint\rdata: http://other/\r\r"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"x":\r{}}}', b'{"jsonrpc":"2.0","id":1,"result":{"x":"\x00"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
    ],
)  # fmt: skip
def test_anything_else_is_read_as_a_message(line):
    assert plain_result(line) is None
    blob = b'"blob":"' + b"x" * 100_000 + b'"'
    for whole in (
        line.replace(b"{}", b"{" + blob + b"}", 1),
        line.replace(b'{"x"', b"{" + blob + b',"x"', 1),
    ):
        assert plain_result(whole) is None or len(whole) < len(blob)


def padded(inner, number=7):
    """A line too large to be searched as a whole."""
    blob = (
        b'"content":[{"type":"text","text":"' + b"\\n\\u0041" * 20_000 + b' \\"isError\\":true"}]'
    )
    return b'{"jsonrpc":"2.0","id":%d,"result":{%b%b}}' % (number, blob, inner and b"," + inner)


@pytest.mark.parametrize(
    ("inner", "is_error", "is_complete", "has_task"),
    [
        (b"", False, True, False), (b'"isError":true', True, True, False), (b'"isError" : true', True, True, False),
        (b'"\\u0069sError":true', True, True, False), (b'"isError":false', False, True, False),
        (b'"resultType":"task","taskId":"a"', False, False, True), (b'"result\\u0054ype":"task"', False, False, False),
        (b'"resultType":"complete"', False, True, False), (b'"task":{"taskId":"a"}', False, True, True),
        (b'"structuredContent":{"isError":true,"taskId":"a","resultType":"task"}', False, True, False),
    ],
)  # fmt: skip
def test_of_a_large_result_its_own_members_say_what_matters(inner, is_error, is_complete, has_task):
    plain = plain_result(padded(inner))
    assert plain is not None and plain.id == 7
    told = plain.told
    assert (told.is_error, told.is_complete) == (is_error, is_complete)
    assert (told.task is not UNSET or told.task_id is not UNSET) is has_task
    assert json.loads(plain.answer(b'"mine"'))["id"] == "mine"


def test_a_large_result_with_a_second_id_or_a_second_message_is_not_plain():
    line = padded(b"")
    for whole in (
        line[:-1] + b',"id":8,"x":{}}', line + b"," + line, line[:-2] + b'},"result":{}}', line[:-1] + b"\r}",
        line[:-2] + b"]}", line[:-2] + b"}}}",
    ):  # fmt: skip
        assert plain_result(whole) is None


@pytest.mark.parametrize(
    ("inner", "is_error"),
    [
        (b'"isError":true', True), (b'"isError" : true', True), (b'"isError":false', False), (b'"a":true', False),
        (b'"isError":false,"isError":true', True),
    ],
)  # fmt: skip
def test_a_tools_error_is_seen(inner, is_error):
    plain = plain_result(b'{"jsonrpc":"2.0","id":1,"result":{"content":[],' + inner + b"}}")
    assert plain is not None and plain.told.is_error is is_error


@pytest.mark.parametrize(
    ("inner", "is_complete"),
    [
        (b"", True), (b'"resultType":"complete"', True), (b'"resultType" : "complete"', True),
        (b'"resultType":"input_required"', False), (b'"resultType":"task"', False), (b'"resultType":""', False),
        (b'"resultType":"complete","resultType":"task"', False), (b'"result\\u0054ype":"task"', False),
        (b'"resultType":"task","resultType":"complete"', True), (b'"x":"\\"resultType\\":\\"task\\" \\u00e9"', True),
        (b'"x":{"resultType":"task"}', True),
    ],
)  # fmt: skip
def test_a_result_is_complete_when_it_says_so_or_says_nothing(inner, is_complete):
    plain = plain_result(b'{"jsonrpc":"2.0","id":1,"result":{' + inner + b"}}")
    assert plain is not None and plain.told.is_complete is is_complete


@pytest.mark.parametrize(
    "inner", [b'"isError":1', b'"isError":null', b'"resultType":null', b'"resultType":{}']
)
def test_a_member_of_another_type_is_read_as_a_message(inner):
    for whole in (b'{"jsonrpc":"2.0","id":1,"result":{%b}}' % inner, padded(inner)):
        assert plain_result(whole) is None
