"""The canonical form of requests: RFC 8785's own examples, and the vectors of the specification."""

import json
import struct

import pytest

from mcphub.wire import canonical as of_the_hub
from mcphub_sdk import canonical as of_the_sdk

BOTH = pytest.mark.parametrize("module", [of_the_hub, of_the_sdk], ids=["hub", "sdk"])

# RFC 8785 appendix B: IEEE 754 bits and the text of the number.
NUMBERS = {
    0x0000000000000000: "0",
    0x8000000000000000: "0",
    0x0000000000000001: "5e-324",
    0x8000000000000001: "-5e-324",
    0x7FEFFFFFFFFFFFFF: "1.7976931348623157e+308",
    0xFFEFFFFFFFFFFFFF: "-1.7976931348623157e+308",
    0x4340000000000000: "9007199254740992",
    0xC340000000000000: "-9007199254740992",
    0x4430000000000000: "295147905179352830000",
    0x44B52D02C7E14AF5: "9.999999999999997e+22",
    0x44B52D02C7E14AF6: "1e+23",
    0x44B52D02C7E14AF7: "1.0000000000000001e+23",
    0x444B1AE4D6E2EF4E: "999999999999999700000",
    0x444B1AE4D6E2EF4F: "999999999999999900000",
    0x444B1AE4D6E2EF50: "1e+21",
    0x3EB0C6F7A0B5ED8C: "9.999999999999997e-7",
    0x3EB0C6F7A0B5ED8D: "0.000001",
    0x41B3DE4355555553: "333333333.3333332",
    0x41B3DE4355555557: "333333333.33333343",
    0xBECBF647612F3696: "-0.0000033333333333333333",
    0x43143FF3C1CB0959: "1424953923781206.2",
}


@BOTH
@pytest.mark.parametrize("bits", NUMBERS, ids=hex)
def test_numbers_are_written_as_rfc_8785_says(module, bits):
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    assert module.canonical(value).decode() == NUMBERS[bits]


@BOTH
def test_members_are_sorted_and_strings_escaped_as_rfc_8785_says(module):
    # RFC 8785 §3.2.2 and §3.2.3
    value = json.loads(
        r'{"numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],'
        r'"string": "\u20ac$\u000F\u000aA' + "'" + r'\u0042\u0022\u005c\\\"\/",'
        r'"literals": [null, true, false]}'
    )
    assert module.canonical(value).decode() == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA' + "'" + 'B\\"\\\\\\\\\\"/"}'
    )
    names = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7}
    assert list(json.loads(module.canonical(names)).values()) == [2, 4, 6, 7, 1, 5, 3]


@BOTH
def test_a_large_integer_counts_as_its_double(module):
    assert module.canonical(2**53 + 1) == module.canonical(float(2**53))
    assert module.canonical(10**21) == b"1e+21"
    assert module.canonical(1.0) == module.canonical(1) == b"1"


@BOTH
@pytest.mark.parametrize(
    "value",
    [float("inf"), float("nan"), "\ud800", {"\ud800": 1}, {1: 2}, object(), 10**400],
    ids=["inf", "nan", "surrogate", "surrogate name", "number name", "object", "beyond doubles"],
)
def test_what_has_no_canonical_form_is_an_error(module, value):
    with pytest.raises(module.NotCanonical):
        module.canonical(value)


@BOTH
def test_what_is_nested_too_deeply_is_an_error(module):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(module.NotCanonical):
        module.canonical(deep)
