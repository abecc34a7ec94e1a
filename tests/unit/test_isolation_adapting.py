"""What refusals tell of the types of parameters, and of databases that nobody answers as."""

import json

import pytest

from mcphub.isolation.backends import detect
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.model import Arrival
from mcphub.isolation.offers import heeded
from mcphub.isolation.surface import Tool
from mcphub.isolation.witness.replies import Request
from mcphub.isolation.witness.server import Witness

_ISSUE = {
    "expected": "array",
    "code": "invalid_type",
    "path": ["paths"],
    "message": "Invalid input",
}


@pytest.mark.parametrize(
    ("refusal", "wanted"),
    [
        (f"Invalid arguments: {json.dumps([_ISSUE], indent=2)}", {"type": "array", "items": {"type": "string"}}),
        ("1 validation error for call\npaths\n  Input should be a valid list [type=list_type]", {"type": "array", "items": {"type": "string"}}),
        ("data/paths must be integer", {"type": "integer"}),
    ],
)  # fmt: skip
def test_a_refusal_tells_the_type_of_a_parameter_of_which_the_schema_says_nothing(refusal, wanted):
    better = heeded(Tool("read_notes", schema={"type": "object"}), [({}, refusal)])
    assert better is not None
    assert better.schema["properties"]["paths"] == wanted
    assert better.schema["required"] == ["paths"]


def test_a_type_that_the_schema_declares_stays():
    tool = Tool("x", schema={"properties": {"paths": {"type": "object"}}})
    assert heeded(tool, [({}, json.dumps([_ISSUE]))]) is None


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Failed: connect ECONNREFUSED 11.0.0.7:3306", [detect.MARIADB]),
        ('connection to server at "db" (11.0.0.2), port 5432 failed: Connection refused', [detect.POSTGRES]),
        ("Can't connect to MySQL server on 'x' ([Errno 111] Connection refused)", [detect.MARIADB]),
        ("Error 111 connecting to localhost:6379. Connection refused.", [detect.REDIS]),
        ("connect ECONNREFUSED 127.0.0.1:8080", []),
        ("listening on 127.0.0.1:5432", []),
    ],
)  # fmt: skip
def test_a_database_that_nobody_answers_as_is_known_by_its_port_or_name(text, kinds):
    assert detect.missed([text]) == kinds


def _posted(path, body, *headers):
    return Request("POST", "acme.test", path, headers, body)


def test_a_session_that_a_service_gives_acts_for_who_opened_it(tmp_path):
    words, secrets = Canaries(), Canaries()
    word, secret = words.plant("said", mint()), secrets.plant("env:TOKEN", mint())
    with Witness(tmp_path, secrets) as witness:
        witness.words = words
        first = json.loads(witness.take(_posted("/login", f"{word} {secret}".encode())).body)
        other = json.loads(witness.take(_posted("/login", b"nobody")).body)
        assert "token" not in other
        witness.take(_posted("/things", b"", ("Cookie", f"session={first['token']}")))
        *_, last = witness.since(0)
    assert (last.said, last.credentials) == (frozenset([word]), frozenset(["env:TOKEN"]))
    assert isinstance(last, Arrival)
    assert word not in json.dumps(first) and secret not in json.dumps(first)
