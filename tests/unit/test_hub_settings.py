"""`mcphub.toml` and the environment: what is read, and what is said of mistakes."""

from pathlib import Path

import pytest

from mcphub.errors import InvalidInput
from mcphub.settings import load, names, variable_of


def written(place: Path, text: str | bytes) -> Path:
    data = text if isinstance(text, bytes) else text.encode()
    (place / "mcphub.toml").write_bytes(data)
    return place


def test_a_file_of_another_editor_is_read(tmp_path: Path) -> None:
    place = written(tmp_path, b"\xef\xbb\xbf[listen]\r\nport = 9000\r\n")
    assert load(place, environ={}).listen.port == 9000


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ("[listen]\nprot = 1", "no setting listen.prot", "listen.port"),
        ("port = 1", "no setting port", "listen.port"),
        ("[tracing]\nsample = 0\ndatabase = 'x'", "no setting tracing.database", "above the first"),
        ("[tracing]\nlisten.port = 1", "no setting tracing.listen", "above the first"),
        ("listen = 1", "listen is a table", "[listen]"),
        ("[listen]\nsse = true\n[listen]\nport = 1", "twice", "stands once"),
        ('[listen]\npublic_url = "mcp.example.com"', "listen.public_url", "settings.md"),
        ('[listen]\npublic_url = "https://u:p@mcp.example.com"', "listen.public_url", ""),
        ('[listen]\nhost = "0.0.0.0"', "listen.host is not loopback", ""),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(
    tmp_path: Path, text: str, told: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as found:
        load(written(tmp_path, text), environ={})
    assert told in found.value.message
    assert hint in found.value.hint
    assert "Value error" not in found.value.message


@pytest.mark.parametrize("name", ["MCPHUB_LISTENN__PORT", "MCPHUB_LISTEN__PROT"])
def test_a_misspelled_variable_of_the_environment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput) as found:
        load(tmp_path, environ={name: "1"})
    assert "listen.port" in found.value.hint


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("LISTEN__PORT", "x", "listen.port (environment): it should be a valid integer."),
        ("LISTEN__SSE", "perhaps", "listen.sse (environment): it should be a valid boolean."),
        ("KEYS__SOURCE", "x", "it should be 'file', 'environment' or 'command'."),
    ],
)
def test_a_wrong_value_is_told_without_the_words_of_the_parser(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, environ={f"MCPHUB_{name}": value})
    assert caught.value.message.endswith(told)


def test_variables_that_are_no_settings_are_left_alone(tmp_path: Path) -> None:
    load(
        tmp_path, environ={"MCPHUB_KEY": "x", "MCPHUB_PORT": "tcp://10.0.0.1:80", "MCPHUB_DIR": "/"}
    )


def test_an_ipv6_address_is_taken_with_brackets_too(tmp_path: Path) -> None:
    assert load(written(tmp_path, 'listen.host = "[::1]"'), environ={}).listen.host == "::1"


def test_every_setting_has_a_variable() -> None:
    assert variable_of("listen.port") == "MCPHUB_LISTEN__PORT"
    assert {"database", "listen.port", "limits.stop_s", "tracing.headers"} <= set(names())


def test_key_files_lie_below_the_hubs_directory_wherever_a_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/srv/home")
    given = '[keys]\nfile = "apart/vault.keys"\n[context]\nkey_file = "~/context.keys"\n'
    settings = load(written(tmp_path, given), environ={})
    assert settings.key_file == tmp_path / "apart" / "vault.keys"
    assert settings.context_key_file == Path("/srv/home/context.keys")
    assert settings.subject_key_file == Path("/srv/home/subjects.keys")
