"""JSON with comments: what is read, what is refused, and that no text takes long."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.catalog.jsonc import JsoncError, blanked, parse, tokens

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1, /* , } */ }', {"a": 1}),
        ("[1, 2, // three\n]", [1, 2]),
        ('["// no comment", "/* nor this */", "a,]"]', ["// no comment", "/* nor this */", "a,]"]),
        ('["a\\"//b"]', ['a"//b']),
        ("/**/[]//", []),
    ],
)
def test_comments_and_trailing_commas_are_read(text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text", ["[,]", "[1,,]", "{,}", "[1 2]", "{'a': 1}", "{a: 1}", "[1] /*", '["', "[Infinity]",
             "[-NaN]", "[1]]", "[" * 50_000, "[" + "9" * 5000 + "]", '{"a":{"b":1,"b":2}}'],
    ids=range(14),
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(JsoncError):
        parse(text)


@given(VALUES)
def test_plain_json_is_read_as_it_is(value: object) -> None:
    text = json.dumps(value, indent=1)
    assert blanked(text) == text
    assert parse(text) == value


@given(st.text(alphabet='"\\/*,[]{}:\n 1a', max_size=30))
def test_blanking_keeps_every_place_and_tokens_are_the_text(text: str) -> None:
    plain = blanked(text)
    assert len(plain) == len(text)
    assert [i for i, c in enumerate(plain) if c == "\n"] == [
        i for i, c in enumerate(text) if c == "\n"
    ]
    assert "".join(token.text for token in tokens(text)) == text


@pytest.mark.timeout(30)
@pytest.mark.parametrize("piece", ["/*a", '"\\', '"a', "//a", "1,", "[", ", ", "/* */,", "\\"])
def test_no_text_takes_time_out_of_proportion(piece: str) -> None:
    with contextlib.suppress(JsoncError):
        parse("[" + piece * 60_000)
