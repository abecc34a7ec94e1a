"""Times and texts on the command line."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import typer

from mcphub.catalog.settings_file import parse_settings
from mcphub.cli.entries import for_hub
from mcphub.cli.starter import SERVERS, toml
from mcphub.cli.values import clean, expiry, json_text, seconds, when
from mcphub.settings import HubSettings


@pytest.mark.parametrize(("text", "expected"), [("90m", 5400), ("12h", 43200), ("30d", 2592000)])
def test_durations_are_read(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "3x", "d", "-1d", "0d", "1.5h", "99999999d"])
def test_what_is_no_duration_is_wrong_usage(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        seconds(text)


def test_an_expiry_is_a_duration_from_now_or_a_date() -> None:
    assert expiry("1h", 1000.0) == 4600.0
    assert when(expiry("2027-01-31", 0)) == "2027-01-31 00:00"
    assert expiry(None, 0) is None


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\u202ec") == "a?[31mb??c"


def test_what_init_writes_is_valid_and_changes_no_default() -> None:
    assert tomllib.loads(toml()) == {}
    assert set(parse_settings(SERVERS, {}).specs) == {"time", "filesystem", "memory"}
    uncommented = tomllib.loads(re.sub(r"^# (?=[a-z_.]+ = )", "", toml(), flags=re.MULTILINE))
    assert uncommented == HubSettings(dir=Path()).model_dump(mode="json", exclude={"dir"})


def test_a_table_of_the_documentation_can_be_put_at_the_end_of_what_init_writes() -> None:
    first = toml().replace("# retention_days = 30", "retention_days = 90")
    assert tomllib.loads(f"{first}\n[tracing]\nsample = 0.01\n") == {
        "retention_days": 90,
        "tracing": {"sample": 0.01},
    }


@pytest.mark.parametrize(
    "said",
    [
        "\x1b[2J",
        "\x9b2J",
        "\x7f",
        "\u202egnp.exe",
        "\u200b",
        "half \ud83d",
        "\U000e0041",
        "é 猫 😀",
        "a\nb",
    ],
)
def test_json_says_the_same_and_steers_no_terminal(said: str) -> None:
    for indent in (None, 2):
        written = json_text({"told": [said], said: 1}, indent)
        assert json.loads(written) == {"told": [said], said: 1}
        assert clean(written) == written
        written.encode()
    assert "é 猫 😀" in json_text("é 猫 😀")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Next: mcphub key create anna", "Next: mcphub key create --dir '/a hub' anna"),
        ("Run: mcphub check -- node a.js", "Run: mcphub check --dir '/a hub' -- node a.js"),
        ("mcphub client-config shows it.", "mcphub client-config --dir '/a hub' shows it."),
        ("See `mcphub instances`.", "See `mcphub instances --dir '/a hub'`."),
        ("mcphub requests --follow", "mcphub requests --dir '/a hub' --follow"),
        ("mcphub connect --url http://a", "mcphub connect --url http://a"),
        ("a bug of MCPHub; mcphub serves", "a bug of MCPHub; mcphub serves"),
    ],
)
def test_commands_in_texts_are_for_the_hub_that_was_named(text: str, expected: str) -> None:
    assert for_hub(text, Path("/a hub")) == expected
    assert for_hub(text, None) == text
