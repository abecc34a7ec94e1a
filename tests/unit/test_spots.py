"""Where credentials stand in the words of a launch line."""

import re
import time

import pytest

from mcphub.catalog.spots import spots
from mcphub.isolation import credentials

_HEX = "7c3f9a1be2d84c55a0e1f2b3c4d5e6f708192a3b"
_THREE_PARTS = "AbCd1Ef2Gh3Ij4Kl5Mn6Op7Qr8St9.Uv0w1X.yZ2aB3cD4eF5gH6iJ7kL8mN9o"


@pytest.mark.parametrize(
    ("args", "secret", "label"),
    [
        (["http://acme.test:8000", _HEX], _HEX, "arg:2"),
        (["--config", _THREE_PARTS], _THREE_PARTS, "arg:config"),
        (["--config", '{"ACME_TOKEN": "hello", "guild": "5"}'], "hello", "arg:config:ACME_TOKEN"),
        (["--header", "Authorization: Bearer hello"], "hello", "arg:header:Authorization"),
        (["--headers", "X-Api-Key:hello,X-Team:5"], "hello", "arg:headers:X-Api-Key"),
        (["-e", "API_TOKEN=hello"], "hello", "arg:e:API_TOKEN"),
        (["--dsn", "host=db user=app password=hello dbname=x"], "hello", "arg:dsn:password"),
        (["--db", "Server=tcp:db;User Id=sa;Password=hello;Encrypt=true"], "hello", "arg:db:Password"),
        (["https://acme.test/mcp?api_key=hello&x=1"], "hello", "arg:url"),
        (["https://acme.test/hooks/T1/a1B2c3D4e5F6g7H8i9J0k1L2"], "a1B2c3D4e5F6g7H8i9J0k1L2", "arg:url"),
        (["https://a1B2c3D4e5F6g7H8i9J0k1L2@acme.test/5"], "a1B2c3D4e5F6g7H8i9J0k1L2", "arg:url"),
        (["--proxy=http://me:hello@proxy.test"], "hello", "arg:url"),
    ],
)  # fmt: skip
def test_a_credential_inside_of_a_word_is_replaced_and_the_rest_of_it_stays(args, secret, label):
    made = credentials.disguise(args, {}, canary="X")
    (given,) = made.given
    assert given.label == label
    assert list(made.args) == [word.replace(secret, given.value) for word in args]
    assert secret not in str(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AUTH", "Bearer hello-hello"),
        ("HEADERS", '{"Authorization": "Bearer hello"}'),
        ("ANYTHING", _HEX),
        ("SLACK", "xoxb-12345678901-abcdefghijkl"),
    ],
)
def test_a_variable_of_any_name_may_hold_one(name, value):
    made = credentials.disguise([], {name: value}, canary="X")
    (given,) = made.given
    assert given.label.startswith(f"env:{name}") and given.value in made.env[name]
    assert made.env[name].startswith(value[: value.find("hello")] if "hello" in value else "")


@pytest.mark.parametrize(
    "word",
    [
        "some_module_with_long_name_2",
        "src/components2/SomeLongNameOfThing",
        "server-sequential-thinking-v2",
        "@scope/server-something-with-1-long-name",
        "https://docs.acme.test/spec/openapi-3.1.0.json",
        f"https://git.acme.test/x/y/commit/{_HEX}",
        "Report2026FinalVersionOfDocument.docx",
        "db-cluster1.cluster-c0ffee123456.us-east-1.rds.acme.test",
        "--max-old-space-size=4096",
        "0f8fad5b-d9cb-469f-a165-70867728950e",
        "a.acme.test:80,b.acme.test:81",
        "registry.acme.test/team/app:sha-7c3f9a1",
        "/home/u/7c3f9a1be2d84c55a0e1f2b3c4d5e6f708192a3b",
    ],
)
def test_what_people_write_is_no_credential(word):
    assert spots("", word) == []
    assert spots("name", word) == []


@pytest.mark.parametrize("part", ["a", "a=", '"a":', "a.-", "http://", " \n,", "a b ", "[", "{"])
def test_long_words_cost_little(part):
    began = time.monotonic()
    spots("", part * 100_000)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"site": "https://acme.test/", "auth": {"token": "hello"}}', ["token"]),
        ('[server]\nurl = "https://acme.test/x"\napi_key    = "hello"\n', ["api_key"]),
        ("server: https://me:hello@acme.test\npassword: hello2\nname: x\n", ["", "password"]),
        ('export TODO_DIR="$HOME/todo"\nexport TODO_FILE="$TODO_DIR/todo.txt"\n', []),
    ],
)
def test_credentials_in_a_file_of_settings_are_replaced(text, told):
    made = credentials.disguise([], {}, canary="X", files={"/home/u/.acme/config": text})
    labels = [c.label.removeprefix("file:config").removeprefix(":") for c in made.given]
    assert sorted(labels) == sorted(told)
    laid = made.files["/home/u/.acme/config"]
    assert "hello" not in laid
    assert all(c.value in laid for c in made.given)
    for given in made.given:
        laid = laid.replace(given.value, "*")
    assert laid == re.sub("hello2?", "*", text)
