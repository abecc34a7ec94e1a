"""Data of large events: read while it arrives, and the same as when it is put together first."""

import json
import random

import pytest

from mcphub.wire import envelope, sse
from mcphub.wire.arriving import Arriving

TEXTS = ["x" * 40, "é\\\n" * 200, "data: }\r\n" * 300, '"},{"' * 100]
ENDS = ["\n", "\r\n", "\r"]


def stream(seed):
    """Return events as they are written, and the (type, message) of each."""
    chance = random.Random(seed)
    parts, expected = [], []
    for number in range(12):
        end = chance.choice(ENDS)
        kind = chance.choice(["", "message", "endpoint"])
        value = {"jsonrpc": "2.0", "id": number, "result": {"text": chance.choice(TEXTS)}}
        text = json.dumps(value, ensure_ascii=False, indent=chance.choice([None, 1]))
        lines = [f": {'comment ' * chance.choice([1, 100])}"]
        lines += [f"event: {kind}"] if kind else []
        lines += ["data:" + chance.choice(["", " "]) + line for line in text.split("\n")]
        parts.append(end.join([*lines, "", ""]))
        expected.append((kind or "message", value))
    return "".join(parts).encode(), expected


def message_of(data):
    text = data.message() if isinstance(data, Arriving) else envelope.parse(data)
    return json.loads(envelope.join(text.members))


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 100_000])
@pytest.mark.parametrize("seed", range(12))
def test_events_of_any_size_arrive_whole_in_parts_of_any_size(monkeypatch, size, seed):
    data, expected = stream(seed)
    for large in (64, 500, 1 << 20):
        monkeypatch.setattr(sse, "LARGE", large)
        reader, found = sse.EventReader(1 << 20), []
        for at in range(0, len(data), size):
            found += reader.feed(data[at : at + size])
        assert [(kind, message_of(one)) for kind, one in found] == expected
        if size < large == 64:
            assert any(isinstance(one, Arriving) for _, one in found)


def test_a_long_line_that_is_no_data_costs_no_more_than_its_length(monkeypatch):
    reader = sse.EventReader(1 << 26)
    for _ in range(2000):
        assert reader.feed(b": " + b"x" * 16_000) == []
    assert len(reader._held) > 1000  # else it would have been copied again and again
    assert reader.feed(b"\ndata: 1\n\n") == [("message", b"1")]


def test_an_event_over_the_limit_is_refused_however_it_arrives():
    reader, part = sse.EventReader(1 << 20), b"x" * 16_000
    assert reader.feed(b"data: ") == []
    for _ in range((1 << 20) // len(part)):
        assert reader.feed(part) == []
    with pytest.raises(sse.EventTooLong):
        reader.feed(part)
