"""The digest that is taken in steps is the one that the SDK takes of the whole, wherever the text is cut."""

import contextlib
import json

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcphub.wire import digest
from mcphub.wire.canonical import NotCanonical
from mcphub.wire.pieces import Pieces
from mcphub_sdk.canonical import NotCanonical as NotCanonicalOfTheSdk
from mcphub_sdk.canonical import request_digest

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    st.sampled_from('ab"\\/\n\r\t\x01\x7fé€😀\u2028'), max_size=80
)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0, -0.0, 2**53, 1e21, 1e-7, 1.0, 5e-324, 1.7976931348623157e308]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
    max_leaves=30,
)


@contextlib.contextmanager
def windows(size):
    """Look at so many bytes at once; nothing is small."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_WINDOW": size, "_ESCAPED": 16, "_FEW": 0, "_RUN": 2}.items():
            patch.setattr(digest, name, value)
        yield


def in_pieces(text, cuts):
    places = sorted(place % (len(text) + 1) for place in cuts)
    return Pieces(
        text[start:stop] for start, stop in zip([0, *places], [*places, len(text)], strict=True)
    )


def in_steps(method, params):
    try:
        return digest.Digest(method, params).finish()
    except NotCanonical:
        return None


def at_once(method, params):
    try:
        return request_digest(method, params)
    except NotCanonicalOfTheSdk:
        return None


@settings(max_examples=1000)
@given(
    params=st.dictionaries(st.sampled_from(["arguments", "a", "name", "_meta", "requestState", "é"]), VALUES),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
    indent=st.sampled_from([None, 1, 30]),
    is_ascii=st.booleans(),
)  # fmt: skip
@example(params={"a": {"\ue000": 1, "😀": 2, "": {}}}, cuts=[3, 9], indent=None, is_ascii=True)
@example(params={"a": ["x" * 900, "é\\" * 90, [], [[]]]}, cuts=[500], indent=1, is_ascii=False)
def test_steps_have_the_digest_of_the_whole(params, cuts, indent, is_ascii):
    def written(value):
        text = json.dumps(value, indent=indent, ensure_ascii=is_ascii)
        return text.replace("\n", " ").encode()

    whole = {name: msgspec.Raw(written(value)) for name, value in params.items()}
    pieces = {name: in_pieces(bytes(raw), cuts) for name, raw in whole.items()}
    expected = at_once("tools/call", params)
    assert in_steps("tools/call", whole) == expected
    with windows(700):
        assert in_steps("tools/call", whole) == expected
        assert in_steps("tools/call", pieces) == expected


@pytest.mark.parametrize("text", [b'{"a":1,"b":2,"a":3}', b'{"\\u0061":1,"b":2,"a":3}'])
def test_of_a_repeated_name_the_last_one_counts(text):
    with windows(64):
        assert in_steps("m", {"x": in_pieces(text, [3])}) == at_once("m", {"x": {"a": 3, "b": 2}})


@pytest.mark.parametrize(
    "text",
    [b'"\\ud800"', b'["a\\udc00b"]', b"1e999", b"[1,-1e400]", b'"' + b"\\ud83d" * 40 + b'"', b'["a', b"{"],
)  # fmt: skip
def test_what_has_no_canonical_form_is_refused(text):
    assert in_steps("m", {"x": msgspec.Raw(text)}) is None
    with windows(64):
        for cuts in ([], [2], [len(text) - 1]):
            assert in_steps("m", {"x": in_pieces(text, cuts)}) is None


@pytest.mark.parametrize("text", [b"1" * 300, b'{"%b":1}' % (b"n" * 300)])
def test_a_token_longer_than_a_window_is_refused_where_it_is_cut(text):
    with windows(64), pytest.raises(NotCanonical, match="too long"):
        digest.Digest(
            "m", {"x": Pieces([text[i : i + 50] for i in range(0, len(text), 50)])}
        ).finish()


def test_numbers_are_whole_at_the_end_of_a_window():
    text = b"[" + b",".join(b"%d" % 10**n for n in range(15)) + b"]"
    for size in (16, 17, 18, 19, 20, 40):
        with windows(size):
            for cut in range(len(text)):
                pieces = {"x": in_pieces(text, [cut])}
                assert in_steps("m", pieces) == at_once("m", {"x": [10**n for n in range(15)]})
