"""Arguments in headers say what the body says, or the call is refused."""

import json

import pytest

from mcphub.gateway.http import Ambiguous, read_headers
from mcphub.wire import envelope
from mcphub.wire.eras import Refused
from mcphub.wire.parameters import check, mirrored


def tool(**properties):
    schema = {"type": "object", "properties": properties}
    return json.dumps({"name": "t", "inputSchema": schema}).encode()


def argument(kind, header):
    return {"type": kind, "x-mcp-header": header}


TOOL = mirrored(
    tool(
        region=argument("string", "Region"),
        count=argument("integer", "Count"),
        dry={"type": "object", "properties": {"run": argument("boolean", "Dry-Run")}},
        free={"type": "string"},
    )
)


def checked(arguments, **headers):
    named = {f"mcp-param-{name.replace('_', '-')}": value for name, value in headers.items()}
    check(TOOL, envelope.object_of(json.dumps(arguments).encode()), named)


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({}, {}),
        ({"region": None, "free": "x"}, {}),
        ({"region": "eu"}, {"region": "eu", "unknown": "passes"}),
        ({"region": "Grüße"}, {"region": "=?base64?R3LDvMOfZQ==?="}),
        ({"region": "=?base64?eA"}, {"region": "=?base64?eA"}),
        ({"count": 42}, {"count": "42.0"}),
        ({"dry": {"run": False}}, {"dry_run": "false"}),
    ],
)
def test_headers_that_say_the_same_pass(arguments, headers):
    checked(arguments, **headers)


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "eu"}, {}),
        ({}, {"region": "eu"}),
        ({"region": None}, {"region": "null"}),
        ({"region": "eu"}, {"region": "us"}),
        ({"region": "eu"}, {"region": "EU"}),
        ({"region": "x"}, {"region": "=?base64?eA?="}),
        ({"region": "x"}, {"region": "=?base64?e!==?="}),
        ({"count": 42}, {"count": "43"}),
        ({"count": 42}, {"count": "1e999999999"}),
        ({"count": "42"}, {"count": "42.0"}),
        ({"dry": {"run": True}}, {"dry_run": "True"}),
        ({"region": ["eu"]}, {"region": "eu"}),
    ],
)
def test_headers_that_say_something_else_are_refused(arguments, headers):
    with pytest.raises(Refused) as refused:
        checked(arguments, **headers)
    assert refused.value.code == -32020


@pytest.mark.parametrize(
    "properties",
    [
        {"a": argument("string", "One"), "b": argument("string", "one")},
        {"a": argument("string", "no token")},
        {"a": argument("string", "")},
        {"a": argument("number", "Number")},
    ],
)
def test_annotations_that_break_the_rules_count_for_nothing(properties):
    assert mirrored(tool(**properties)) == ()


def test_an_argument_in_two_headers_is_refused_at_the_door():
    header = (b"mcp-param-region", b"eu")
    assert read_headers([header]) == {"mcp-param-region": "eu"}
    with pytest.raises(Ambiguous):
        read_headers([header, header])
