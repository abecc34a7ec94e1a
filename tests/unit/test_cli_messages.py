"""What the stdio bridge reads of messages and streams."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.cli.http1 import BadUrl, Endpoint
from mcphub.cli.messages import Message, NotJson, SseReader, header_value, one_line
from mcphub.wire.eras import decode_header


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_a_header_and_is_sendable(text: str) -> None:
    value = header_value(text)
    assert all(0x20 <= ord(char) <= 0x7E for char in value)
    assert value == value.strip()
    assert decode_header(value) == text


def test_plain_names_are_not_encoded() -> None:
    assert header_value("get_weather") == "get_weather"
    assert header_value("=?base64?eA==?=") != "=?base64?eA==?="


@given(
    st.lists(st.text(min_size=1), max_size=5),
    st.lists(st.integers(1, 40)),
    st.sampled_from(["\n", "\r\n"]),
)
def test_events_come_out_whole_wherever_the_stream_is_split(
    texts: list[str], cuts: list[int], end: str
) -> None:
    messages = [json.dumps({"text": text}) for text in texts]
    stream = "".join(
        f": keep-alive{end}{end}event: message{end}data: {m}{end}{end}" for m in messages
    )
    rest, reader, found = stream.encode(), SseReader(1 << 20), []
    for cut in [*cuts, len(rest)]:
        found += reader.feed(rest[:cut])
        rest = rest[cut:]
    assert [data.decode() for data in found] == messages


def test_an_event_over_the_limit_is_refused() -> None:
    reader = SseReader(100)
    with pytest.raises(ValueError, match="too large"):
        list(reader.feed(b"data: " + b"x" * 200))


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_joining_lines_changes_no_value(value: object) -> None:
    line = one_line(json.dumps(value, indent=2).encode())
    assert b"\n" not in line
    assert json.loads(line) == value


def test_the_era_is_read_from_each_message() -> None:
    modern = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
    line = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "resources/read",
        "params": modern | {"uri": "a:b"},
    }
    message = Message.parse(json.dumps(line).encode())
    assert (message.ids, message.version) == ((1,), "2026-07-28")
    assert message.modern_headers()["Mcp-Name"] == "a:b"
    assert Message.parse(b'{"jsonrpc":"2.0","id":"x","method":"ping"}').version == ""


def test_answers_and_notifications_have_no_request_id() -> None:
    assert Message.parse(b'{"jsonrpc":"2.0","id":4,"result":{}}').ids == ()
    assert Message.parse(b'{"jsonrpc":"2.0","method":"notifications/initialized"}').ids == ()
    batch = Message.parse(b'[{"id":1,"method":"a"},{"id":2,"result":{}},{"id":3,"method":"b"}]')
    assert batch.ids == (1, 3)


@pytest.mark.parametrize("line", [b"x", b"3", b'"text"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(NotJson):
        Message.parse(line)


@pytest.mark.parametrize(
    "url",
    ["ftp://host/mcp", "http://", "127.0.0.1:8765", "http://a b/", "http://user:pw@host/mcp",
     "http://host:99999/", "http://host/\r\nX: y"],
)  # fmt: skip
def test_urls_that_cannot_be_meant_are_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        Endpoint.parse(url)


def test_a_url_is_split_into_what_the_request_needs() -> None:
    endpoint = Endpoint.parse("http://[::1]:8765/mcp/time?x=1")
    assert (endpoint.host, endpoint.port, endpoint.target) == ("::1", 8765, "/mcp/time?x=1")
    assert endpoint.authority == "[::1]:8765"
    assert Endpoint.parse("https://hub.example/mcp").port == 443
    assert Endpoint.parse("http://hub.example/mcp").in_clear
