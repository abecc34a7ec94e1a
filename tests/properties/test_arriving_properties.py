"""What arrives in parts is read as `envelope.parse` reads the whole, whatever it is and wherever it is cut.

Differences that are allowed, all of them in what no program writes:
- a name (with the space up to its colon) or a number that is longer than a window is refused;
- a body that is no object, and a string longer than a window or followed by bytes that are no UTF-8: both
  readers refuse it, with another code;
- where too deep begins, at 900 brackets or a little more;
- more than `envelope.MOST` members: counted by different names, and in small messages too;
- `envelope.without_halves` leaves a text as it is that has more than 10 000 surrogates, and takes `\\ud83d`
  behind a backslash that is escaped for half of a pair.
"""

import contextlib
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mcphub.wire import arriving, envelope
from mcphub.wire.arriving import Arriving

PATHS = sorted(arriving._READ)
LONGEST = 40
"""Bytes of a name or number in a message that is read with the smallest windows."""


@contextlib.contextmanager
def windows(size):
    """Read with windows of so many bytes, and all else in proportion."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "_WINDOW": size,
            "_STRING": size,
            "_NOTED": size // 2,
            "_ESCAPED": max(size // 4, 12),
            "_FIRST_GUESS": size // 4,
            "_LEAST_GUESS": size // 16,
            "_MOST_GUESS": size - size // 4,
            "_WHOLE": size // 2,
        }.items():
            patch.setattr(arriving, name, value)
        yield


def seen(message):
    """What a reader sees of a message."""
    inner = {path: shown(message.inner(*path)) for path in PATHS}
    return message.id, message.method, shown(message.members), inner


def shown(members):
    return [(name, envelope.one_line(bytes(raw))) for name, raw in members.items()]


def whole(data):
    """What `envelope.parse` says."""
    try:
        return seen(envelope.parse(data))
    except envelope.Malformed as error:
        return error.code


def in_parts(data, cuts, *, mends=False, waits=False):
    """What `Arriving` says of the same bytes; what it keeps must be one line as it is."""
    reader = Arriving(mends=mends)
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        reader.add(data[start:stop])
        while not waits and not reader.read():
            pass
        assert reader._waiting == sum(map(len, reader._parts))
    reader.end()
    while not reader.read():
        pass
    assert len(reader) == len(data)
    try:
        message = reader.message()
    except envelope.Malformed as error:
        return error.code
    for members in (message.members, *(message.inside or {}).values()):
        assert not any(b"\n" in bytes(raw) or b"\r" in bytes(raw) for raw in members.values())
    return seen(message)


def cut(data, places):
    return sorted(place % (len(data) + 1) for place in places)


# ---------------------------------------------------------------------- documents

SPACE = st.sampled_from([b"", b"", b"", b" ", b"\n", b"\r\n", b"\r", b"\t", b"  \r\n "])
GOOD_BITS = [
    b"a", b"zz top", b",", b":", b"},", b"],", b"{", b"[1,2]", b'\\",', b"\\\\", b"\\\\\\\\", b'\\"', b"\\/", b"\\n\\r",
    b"\\b\\f\\t", b"\\u0041", b"\\u00e9", b"\\uFFFF", b"\\ud83d\\ude00", b"\\uDBFF\\uDFFF", "\u00e9".encode(),
    "\u20ac".encode(), "\U0001f600".encode(), "\u65e5\u672c".encode(), b"\x7f", b"x" * 30,
]  # fmt: skip
HALVES = [b"\\ud800", b"\\uDC00", b"\\ud83d\\ud83d\\ude00", b"\\ude00\\ud83d", b"\\\\\\udfff"]
BAD_BITS = [
    b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80", b"\x80",
    b"\xf4\x90\x80\x80", b"\n", b"\r", b"\0", b"\\x", b"\\u12g4", b"\\ud83d\\u0041", b"\\ud83d\\n", b"\\u12", b"\\",
]  # fmt: skip


def strings(bits, most):
    return st.lists(st.sampled_from(bits), max_size=most).map(lambda some: b'"%b"' % b"".join(some))


def containers(brackets, items):
    """Write items between brackets, with the same space around each comma."""
    opener, closer = brackets

    def write(some, before, after):
        return opener + before + (after + b"," + before).join(some) + after + closer

    return st.builds(write, st.lists(items, max_size=5), SPACE, SPACE)


def members(names, values):
    return st.builds(
        lambda name, before, after, value: name + before + b":" + after + value,
        names,
        SPACE,
        SPACE,
        values,
    )


NAMES = st.sampled_from(
    [b'"a"', b'"b"', b'"\\u0061"', b'""', '"\u017c"'.encode(), b'"a\\"},:"', b'"\\\\"', b'"long-long-long-name"',
     b'"\\ud83d\\ude00"', b'"arguments"', b'"_meta"']
)  # fmt: skip
SCALARS = st.sampled_from(
    [b"0", b"-0", b"1", b"-12.50", b"1e5", b"1E+5", b"0.1e-7", b"123456789012345678901234", b"1e999", b"true", b"false",
     b"null"]
)  # fmt: skip
STRINGS = strings(GOOD_BITS, 8)
VALUES = st.recursive(
    SCALARS | STRINGS,
    lambda inner: containers((b"[", b"]"), inner) | containers((b"{", b"}"), members(NAMES, inner)),
    max_leaves=10,
)
RUNS = st.builds(
    lambda item, number: b"[" + b",".join([item] * number) + b"]", VALUES, st.integers(1, 20)
)
LARGE_STRINGS = st.builds(
    lambda bits, number: b'"' + bits[1:-1] * number + b'"', STRINGS, st.integers(1, 20)
)
ANY = VALUES | RUNS | LARGE_STRINGS


def objects(*special):
    """Objects with members that have these names often, also several times."""
    named = st.one_of(*(members(st.just(name), values) for name, values in special))
    return containers((b"{", b"}"), named | named | members(NAMES, ANY))


INNER = objects((b'"a"', ANY), (b'"b"', ANY))
PARAMS = objects(
    (b'"name"', STRINGS), (b'"_meta"', INNER), (b'"arguments"', INNER), (b'"_meta"', ANY), (b'"arguments"', ANY),
    (b'"\\u005fmeta"', INNER),
)  # fmt: skip
MORE = st.one_of(
    members(st.sampled_from([b'"params"', b'"params"', b'"par\\u0061ms"', b'"result"']), PARAMS),
    members(st.sampled_from([b'"params"', b'"result"', b'"error"']), INNER | ANY),
    members(NAMES, ANY),
    st.sampled_from([b'"id":"\\u0061"', b'"id" : 7', b'"method":"a/b"']),
)
RARE = st.sampled_from(
    [b'"id":null', b'"id":1.5', b'"id":[1]', b'"jsonrpc":"1.0"', b'"method":7', b'"method":"\\u006d"', b'"method":""']
)  # fmt: skip


@st.composite
def messages(draw):
    """Valid JSON that is a message, most often."""
    parts = [
        b'"jsonrpc":"2.0"',
        b'"id":-1',
        b'"method":"tools/call"',
        *draw(st.lists(MORE, min_size=1, max_size=5)),
    ]
    if draw(st.integers(0, 5)) == 0:
        parts[draw(st.integers(0, 2))] = draw(RARE)
    turn = draw(st.integers(0, len(parts)))
    before, after, outside = draw(SPACE), draw(SPACE), draw(SPACE)
    text = (after + b"," + before).join(parts[turn:] + parts[:turn])
    return outside + b"{" + before + text + after + b"}" + outside  # fmt: skip


TOKENS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b'":', b'",', b'"a":1,', b"1", b"-", b".", b"e", b"0", b"nul", b"\x0b",
    b"\xef\xbb\xbf",
]  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "take", "flip", "turn"]),
        st.integers(0, 4000),
        st.integers(1, 9),
        st.sampled_from(GOOD_BITS + HALVES + BAD_BITS + TOKENS),
    ),
    min_size=1,
    max_size=2,
)


def changed(data, changes):
    """A message in which something was put, taken away or flipped, or a bracket was turned into another."""
    for kind, place, size, bit in changes:
        at = place % (len(data) + 1)
        if kind == "put":
            data = data[:at] + bit + data[at:]
        elif kind == "take":
            data = data[:at] + data[at + size :]
        elif kind == "turn":
            at = max(data.rfind(b"]", 0, at), data.rfind(b"}", 0, at), 0)
            data = data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :]
        elif at < len(data):
            data = data[:at] + bytes([data[at] ^ (1 << (size % 8))]) + data[at + 1 :]
    return data


PLACES = st.lists(st.integers(0, 4000), max_size=6)
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"(?:[ \t\r\n]*:)?|[-+.0-9a-zA-Z]+', re.DOTALL)


def is_comparable(data, longest):
    """Whether no difference is allowed."""
    first = data.lstrip(b" \t\r\n")[:1]
    if first != b"{":
        return _is_utf8(data) and (len(data) <= longest or first == b"[")
    tokens = (found[0] for found in TOKEN.finditer(data))
    return all(len(token) <= longest for token in tokens if not token.endswith(b'"'))


def _is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def same(data, places, sizes=(48, 64, 200)):
    """Both readers say the same, whatever the windows are and wherever it is cut."""
    expected = whole(data)
    for size in sizes:
        with windows(size):
            assert in_parts(data, cut(data, places)) == expected
            assert in_parts(data, []) == expected
            assert in_parts(data, range(1, len(data), 3), waits=True) == expected
    assert in_parts(data, cut(data, places)) == expected


# ---------------------------------------------------------------------- properties


@settings(max_examples=200)
@given(messages(), PLACES)
def test_a_message_is_read_as_if_it_were_whole(data, places):
    assume(is_comparable(data, LONGEST))
    same(data, places)


@settings(max_examples=300)
@given(messages(), CHANGES, PLACES)
def test_what_was_damaged_is_taken_or_refused_as_if_it_were_whole(data, changes, places):
    data = changed(data, changes)
    assume(is_comparable(data, LONGEST))
    same(data, places)


@given(st.lists(st.sampled_from(TOKENS + GOOD_BITS + BAD_BITS + HALVES), max_size=9), PLACES)
@example([b"xyz"], [])
@example([b'"abc"'], [])
@example([b'"a"', b"x"], [])
@example([b"tru"], [])
@example([b"null"], [])
@example([b"1."], [])
@example([b"\xef\xbb\xbf{}"], [])
@example([b"[1]"], [])
@example([b"{}"], [])
@example([], [])
def test_any_bytes_are_refused_with_the_same_code(bits, places):
    data = b"".join(bits)
    assume(is_comparable(data, LONGEST))
    same(data, places)


HALVED = strings(GOOD_BITS + HALVES * 3, 12)


@settings(max_examples=150)
@given(
    objects((b'"a"', HALVED), (b'"\\ud800"', HALVED), (b'"\\ufffd"', HALVED)),
    st.lists(members(HALVED, HALVED), max_size=3),
    CHANGES | st.just([]),
    PLACES,
)
def test_halves_are_mended_as_if_it_were_whole(inner, more, changes, places):
    text = b",".join(
        [b'"jsonrpc":"2.0","id":1,"method":"m"', *more, b'"params":{"arguments":%b}' % inner]
    )
    data = changed(b"{%b}" % text, changes)
    longest = max(len(found[0]) for found in TOKEN.finditer(data) if found[0][-1:] != b'"')
    assume(is_comparable(data, longest))
    expected = whole(envelope.without_halves(data))
    unmended = whole(data)
    for size in (longest + 8, 4 * longest):
        with windows(size):
            for cuts in (cut(data, places), [], range(1, len(data), 3)):
                assert in_parts(data, cuts, mends=True) == expected
                assert in_parts(data, cuts) == unmended


# ---------------------------------------------------------------------- real sizes


def numbered(item, number):
    return b"{" + b",".join(b'"n%d":%b' % (at, item) for at in range(number)) + b"}"


def repeated(item, size):
    return b"[" + b",\n".join([item] * (size // (len(item) + 2) + 1)) + b"]"


def lengthened(item, size):
    return b'"' + (item * (size // len(item) + 1)) + b'"'


SIZES = st.sampled_from([70_000, 40_000, 200_000, 9_000])
LONG = st.one_of(
    st.builds(repeated, VALUES, SIZES),
    st.builds(numbered, VALUES, st.sampled_from([3_000, 100])),
    st.builds(lengthened, st.lists(st.sampled_from(GOOD_BITS), min_size=1).map(b"".join), SIZES),
)
LONG_INNER = st.builds(
    lambda first, more, last: b'{"a":%b,%b,"b":%b}' % (first, more, last),
    LONG,
    members(NAMES, ANY),
    LONG | ANY,
)
LONG_PARAMS = objects(
    (b'"_meta"', LONG_INNER), (b'"arguments"', LONG_INNER), (b'"arguments"', INNER)
)
LONG_MORE = members(st.sampled_from([b'"params"', b'"result"', b'"x"']), LONG_PARAMS | LONG)


@st.composite
def large_messages(draw):
    some = [b'"params":{"name":"a","arguments":%b}' % draw(LONG_INNER)]
    some += draw(st.lists(LONG_MORE | MORE, max_size=2))
    some.insert(draw(st.integers(0, len(some))), b'"jsonrpc":"2.0","id":1,"method":"m"')
    return b"{" + b",".join(some) + b"}"  # fmt: skip


@settings(max_examples=30)
@given(large_messages(), CHANGES | st.just([]), st.floats(0, 1), st.sampled_from([1_500, 65_536]))
def test_a_large_message_is_read_as_if_it_were_whole(data, changes, shift, part):
    if changes:
        kind, _, size, bit = changes[0]
        data = changed(data, [(kind, int(shift * len(data)), size, bit)])
    assume(len(data) <= 2_000_000 and is_comparable(data, 30_000))
    cuts = range(part, len(data), part)
    assert in_parts(data, cuts) == whole(data)
    if len(re.findall(rb"\\u[dD][89a-fA-F]", data)) <= 10_000:
        assert in_parts(data, cuts, mends=True) == whole(envelope.without_halves(data))
