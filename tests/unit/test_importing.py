"""Clients' settings become entries without anybody's secrets; entries go into an existing file."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcphub.catalog.importing import import_client_file, import_client_text
from mcphub.catalog.jsonc import parse
from mcphub.catalog.merging import merge_entries
from mcphub.catalog.settings_file import SettingsError, parse_settings
from mcphub.errors import Conflict, InvalidInput

CLAUDE_DESKTOP = """{
  "globalShortcut": "",
  "mcpServers": {
    "My GitHub": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-github"],
                  "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_canary1canary1"}},
    "memory": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-memory"]}
  }
}"""

CLAUDE_CODE = """{
  "numStartups": 3,
  "mcpServers": {"sentry": {"type": "http", "url": "https://mcp.sentry.dev/mcp",
                            "headers": {"Authorization": "Bearer sntryu_canary2canary2"}}},
  "projects": {
    "/home/ann/a": {"mcpServers": {"db": {"type": "stdio", "command": "npx", "args":
        ["@modelcontextprotocol/server-postgres", "postgresql://ann:canary3@db.example.com/x"]}}},
    "/home/ann/b": {"mcpServers": {"db": {"type": "stdio", "command": "npx", "args":
        ["@modelcontextprotocol/server-postgres", "postgresql://ann:canary3@db.example.com/x"]}}},
    "/home/ann/c": {"mcpServers": {"db": {"command": "npx", "args": ["other", "--api-key", "canary4"]},
                                   "plain": {"command": "uvx", "args": ["mcp-server-time"],
                                             "env": {"TOKEN": "${MY_TOKEN:-canary5}", "PORT": 3000}}}}
  }
}"""

CURSOR = """{"mcpServers": {
  "linear": {"command": "npx", "args": ["-y", "linear-mcp-server"], "envFile": "${workspaceFolder}/.env",
             "env": {"LINEAR_API_KEY": "${env:LINEAR_API_KEY}", "HOME_DIR": "${userHome}/x", "COST": "$5 $$"}},
  "remote": {"url": "https://mcp.example.com/sse?api_key=canary6&region=eu",
             "headers": {"X-API-Key": "canary7", "X-Team": "blue"}}
}}"""

VSCODE = """{
  // asked once
  "inputs": [{"type": "promptString", "id": "tavily-key", "password": true},],
  "servers": {"tavily": {"type": "stdio", "command": "npx", "args": ["-y", "tavily-mcp"],
                         "env": {"TAVILY_API_KEY": "${input:tavily-key}"}, "dev": {"watch": "x"}}}
}"""

CLINE = """{"mcpServers": {"files": {
  "command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/ann/canary8"],
  "disabled": true, "timeout": 120, "autoApprove": ["read_file"], "env": {"LOG": "xoxb-canary9-1"}}}}"""

FILES = {
    "claude desktop": CLAUDE_DESKTOP,
    "claude code": CLAUDE_CODE,
    "cursor": CURSOR,
    "vscode": VSCODE,
    "cline": CLINE,
}


@pytest.mark.parametrize("client", FILES)
def test_an_imported_file_loads_and_holds_no_secret(client: str) -> None:
    result = import_client_text(FILES[client])
    assert result.entries
    told = json.dumps([result.entries, result.notes])
    assert set(re.findall(r"canary\d", told)) <= {"canary8"}  # a directory, no secret
    loaded = parse_settings(json.dumps({"mcpServers": result.entries}), {})
    assert all(spec.groups == {"everyone"} for spec in loaded.specs.values())


def test_claude_desktop_names_become_names_of_the_grammar_with_the_original_as_title() -> None:
    result = import_client_text(CLAUDE_DESKTOP, groups=("dev",))
    assert result.entries["my-github"] == {
        "title": "My GitHub",
        "command": "npx",
        "args": ["-y", "@modelcontextprotocol/server-github"],
        "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": "${USER_GITHUB_PERSONAL_ACCESS_TOKEN}"},
        "riskLevel": "critical",
        "groups": ["dev"],
    }
    assert result.entries["memory"]["env"] == {"MEMORY_FILE_PATH": "${USER_HOME}/memory.jsonl"}
    assert any("GITHUB_PERSONAL_ACCESS_TOKEN: each user sets" in note for note in result.notes)


def test_claude_code_servers_of_all_projects_are_read_and_repeated_ones_once() -> None:
    entries = import_client_text(CLAUDE_CODE).entries
    assert list(entries) == ["sentry", "db", "db-2", "plain"]
    assert entries["sentry"]["headers"] == {"Authorization": "Bearer ${USER_SENTRY_TOKEN}"}
    assert entries["db"]["args"][1] == "postgresql://ann:${USER_DB_PASSWORD}@db.example.com/x"
    assert entries["db-2"]["args"] == ["other", "--api-key", "${USER_API_KEY}"]
    assert entries["plain"]["env"] == {"TOKEN": "${USER_MY_TOKEN}", "PORT": "3000"}


def test_cursor_templates_are_translated() -> None:
    result = import_client_text(CURSOR)
    linear, remote = result.entries["linear"], result.entries["remote"]
    assert linear["env"] == {
        "LINEAR_API_KEY": "${USER_LINEAR_API_KEY}",
        "HOME_DIR": "${USER_HOME}/x",
        "COST": "$$5 $$$$",
    }
    assert remote["url"] == "https://mcp.example.com/sse?api_key=${USER_API_KEY}&region=eu"
    assert remote["headers"] == {"X-API-Key": "${USER_X_API_KEY}", "X-Team": "blue"}
    assert any("envFile" in note for note in result.notes)


def test_vscode_inputs_become_slots() -> None:
    result = import_client_text(VSCODE)
    assert result.entries["tavily"]["env"] == {"TAVILY_API_KEY": "${USER_TAVILY_KEY}"}
    assert 'input "tavily-key": each user sets the credential TAVILY_KEY.' in result.notes


def test_cline_switches_are_kept_and_its_approvals_are_not() -> None:
    result = import_client_text(CLINE)
    files = result.entries["files"]
    assert (files["enabled"], files["timeoutSeconds"]) == (False, 120)
    assert "autoApprove" not in files
    assert files["env"] == {"LOG": "${USER_LOG}"}
    assert any("not approved by the hub" in note for note in result.notes)


@pytest.mark.parametrize(
    "entry", [5, {}, {"command": "docker run x"}, {"command": "bunx", "args": ["x"]},
              {"command": "x", "args": [1]}, {"type": "weird", "command": "x"}]
)  # fmt: skip
def test_what_cannot_load_is_left_out_with_a_note_and_the_rest_is_taken(entry: Any) -> None:
    text = json.dumps({"mcpServers": {"bad": entry, "good": {"command": "/bin/good"}}})
    result = import_client_text(text)
    assert list(result.entries) == ["good"]
    assert any('server "bad": left out' in note for note in result.notes)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mcpServers": 5}', "{"])
def test_a_file_without_servers_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(SettingsError):
        import_client_file(path)


SECRETS = [
    "ghp_abcdefghij0123456789", "github_pat_11AAAAAAA0abcdefgh", "glpat-abcdefghij0123456789",
    "xoxb-123456789-abcdef", "ntn_abcdefghij", "sk-proj-abcdefghij0123456789", "AKIAIOSFODNN7EXAMPLE",
    "sk-ant-api03-abcdefghijklmnop", "lin_api_abcdefghij", "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-_",
    "tvly-abcdefghij", "hf_abcdefghijklmnop",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("where", ["env", "args", "assigned", "mixed", "url", "header"])
def test_a_token_is_known_by_its_shape_wherever_it_stands(secret: str, where: str) -> None:
    entry: dict[str, Any] = {
        "env": {"command": "/bin/s", "env": {"SETTING": secret}},
        "args": {"command": "/bin/s", "args": ["-x", secret]},
        "assigned": {"command": "/bin/s", "args": [f"--setting={secret}"]},
        "mixed": {"command": "/bin/s", "env": {"SETTING": f"${{REGION}} {secret}"}},
        "url": {"url": f"https://a.example/{secret}/mcp"},
        "header": {"url": "https://a.example/", "headers": {"X-Thing": secret}},
    }[where]
    result = import_client_text(json.dumps({"mcpServers": {"s": entry}}))
    assert "${USER_" in json.dumps(result.entries["s"])
    assert secret not in json.dumps([result.entries, result.notes])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ["a.", "a://:", "?k=", "eyJ", "sk-a-", "${", "$", "--k=", "ghp_"])
def test_no_value_takes_time_out_of_proportion(piece: str) -> None:
    entry = {"command": "/bin/s", "args": [piece * 20_000], "env": {"A": piece * 20_000}}
    import_client_text(json.dumps({"mcpServers": {"s": entry}}))


COMMENTED = """// ours
{
  "mcpServers": {
    // the first
    "a": {"command": "/bin/a"} /* stays */, // really
    "b": {"command": "/bin/b", "env": {"mcpServers": "}"}} // last one
  },
}
"""


def test_entries_are_added_and_every_comment_stays() -> None:
    new = merge_entries(COMMENTED, {"c": {"command": "/bin/c"}, "d": {"url": "https://d.example"}})
    assert list(parse(new)["mcpServers"]) == ["a", "b", "c", "d"]
    for comment in ("// ours", "// the first", "/* stays */, // really", "// last one"):
        assert comment in new
    assert new.startswith(COMMENTED[: COMMENTED.index("}} // last") + 2])


@pytest.mark.parametrize(
    "text",
    ['{"mcpServers": {}}', '{"mcpServers": {},}', '{"mcpServers":{"a":{"command":"x"},}}',
     '{"mcpServers": { // none yet\n}}', '{"servers": {"a": {}}, "inputs": [{"mcpServers": {}}]}',
     '{"$schema": "mcpServers", "mcpServers": {"a": {} /* } */ }}'],
)  # fmt: skip
def test_entries_can_be_added_to_any_form(text: str) -> None:
    old = parse(text)
    root = "servers" if "servers" in old else "mcpServers"
    new = parse(merge_entries(text, {"new": {"command": "/bin/new"}}))
    assert new == {**old, root: {**old[root], "new": {"command": "/bin/new"}}}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mcpServers": []}', "{"])
def test_entries_are_not_added_to_what_is_no_settings_file(text: str) -> None:
    with pytest.raises(InvalidInput):
        merge_entries(text, {"a": {}})


def test_a_server_that_is_there_is_never_replaced() -> None:
    with pytest.raises(Conflict, match="already a server 'b'"):
        merge_entries(COMMENTED, {"b": {}, "c": {}})


BLANKS = st.sampled_from(["", " ", "\n", " // x }\n", "/* { */", "\n\n  "])


@given(st.lists(BLANKS, min_size=9, max_size=9), st.booleans(), st.booleans())
def test_adding_keeps_the_document_however_it_is_laid_out(
    s: list[str], comma: bool, empty: bool
) -> None:
    inner = "" if empty else f'"a"{s[0]}:{s[1]}{{{s[2]}}}{s[3]}{"," if comma else ""}{s[4]}'
    text = f'{s[5]}{{{s[6]}"mcpServers":{s[7]}{{{inner}{s[8]}}}}}{s[5]}'
    new = parse(merge_entries(text, {"z": {"command": "é\n"}}))
    assert new == {"mcpServers": {**({} if empty else {"a": {}}), "z": {"command": "é\n"}}}


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ({"oauth": {}}, {}),
        ({"oauth": {"clientId": "abc", "callbackPort": 8080}}, {"clientId": "abc"}),
        (
            {"auth": {"CLIENT_ID": "abc", "CLIENT_SECRET": "canary", "scopes": ["read", "write"]}},
            {"clientId": "abc", "scopes": ["read", "write"]},
        ),
        ({"oauth": {}, "headers": {"Authorization": "Bearer ${TOKEN}"}}, None),
        ({"oauth": {}, "url": "https://a.example/?api_key=canary1canary1"}, None),
    ],
)
def test_a_login_of_the_client_becomes_one_of_each_user(written, entry) -> None:
    server = {"url": "https://notes.example.com/mcp", **written}
    found = import_client_text(json.dumps({"mcpServers": {"notes": server}}))
    assert found.entries["notes"].get("oauth") == entry
    assert "canary" not in json.dumps([found.entries, found.notes])
    loaded = parse_settings(json.dumps({"mcpServers": found.entries}), {"TOKEN": "x"})
    assert loaded.specs["notes"].slot_names


def imported(**entry: Any) -> tuple[dict[str, Any], str]:
    result = import_client_text(json.dumps({"mcpServers": {"one": entry}}))
    return result.entries["one"], "\n".join(result.notes)


def test_a_server_of_a_windows_machine_is_started_without_its_shell() -> None:
    for shell in ("cmd", "cmd.exe", "C:\\Windows\\System32\\cmd.exe"):
        entry, notes = imported(command=shell, args=["/c", "npx", "-y", "a-server"])
        assert (entry["command"], entry["args"]) == ("npx", ["-y", "a-server"])
        assert "without the Windows shell" in notes


def test_a_bridge_to_an_address_becomes_the_address_with_its_headers_as_slots() -> None:
    entry, notes = imported(
        command="npx",
        args=["mcp-remote@latest", "https://a.example/mcp", "--header", "Authorization:${AUTH}"],
        env={"AUTH": "Bearer canary1canary1"},
    )
    assert entry["url"] == "https://a.example/mcp"
    assert entry["headers"]["Authorization"].startswith("Bearer ${USER_")
    assert not {"command", "args", "env"} & set(entry)
    assert "canary" not in json.dumps(entry) + notes
    kept, _ = imported(command="npx", args=["mcp-remote", "https://a.example/mcp", "--host", "b"])
    assert kept["command"] == "npx"  # it says more than an address


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/Users/ann/work", True),
        ("--dir=/home/ann/x", True),
        ("~/notes", True),
        ("C:\\Users\\ann", True),
        ("C:/work", True),
        ("/home/u/notes", False),
        ("${USER_HOME}/notes", False),
        ("https://a.example/home/ann", False),
        ("/usr/share/dict", False),
    ],
)
def test_places_of_one_persons_machine_are_told_without_their_names(text: str, told: bool) -> None:
    _, notes = imported(command="npx", args=["a-server", text], env={"PLACE": text})
    for place in ("args[1]", "env.PLACE"):
        assert (f"{place} names a place on one person's machine" in notes) is told
    assert "ann" not in notes


@pytest.mark.parametrize(
    ("args", "made"),
    [
        (
            ["--header", "Authorization: Bearer canary1-x"],
            "Authorization: Bearer ${USER_ONE_TOKEN}",
        ),
        (
            ["--header=Authorization: Bearer canary1"],
            "--header=Authorization: Bearer ${USER_ONE_TOKEN}",
        ),
        (["-H", "X-API-Key: canary1"], "X-API-Key: ${USER_X_API_KEY}"),
        (["--env", "API_TOKEN=canary1"], "API_TOKEN=${USER_API_TOKEN}"),
        (["--json", '{"apiKey": "canary1", "a": 1}'], '{"apiKey": "${USER_APIKEY}", "a": 1}'),
        (["--dsn", "host=a user=b password=canary1"], "host=a user=b password=${USER_PASSWORD}"),
        (["--auth", "Bearer canary1"], "Bearer ${USER_AUTH}"),
        (["--header", "Authorization: Bearer ${USER_KEY}"], "Authorization: Bearer ${USER_KEY}"),
        (["--header", "X-Team: blue"], "X-Team: blue"),
        (["--tokenizer", "cl100k_base"], "cl100k_base"),
        (["--max-tokens=4096"], "--max-tokens=4096"),
        (["--mode", "read=1,write=0"], "read=1,write=0"),
        (["@a/long-server-name-of-2026x1"], "@a/long-server-name-of-2026x1"),
    ],
)
def test_a_credential_inside_of_an_argument_becomes_each_users_own(args, made) -> None:
    entry, notes = imported(command="npx", args=["a-server", *args])
    assert entry["args"][-1] == made
    assert "canary" not in json.dumps(entry) + notes


def test_a_credential_inside_of_a_variable_becomes_each_users_own() -> None:
    env = {"HEADERS": '{"Authorization": "Bearer canary1"}', "OPTIONS": "region=eu;api_key=canary2"}
    entry, notes = imported(command="npx", args=["a-server"], env=env)
    assert entry["env"] == {
        "HEADERS": '{"Authorization": "Bearer ${USER_HEADERS}"}',
        "OPTIONS": "region=eu;api_key=${USER_API_KEY}",
    }
    assert "canary" not in notes


@pytest.mark.parametrize(
    ("name", "value", "file"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/Users/ann/keys/sa.json", "~/keys/sa.json"),
        (
            "GMAIL_OAUTH_PATH",
            "~/.gmail-mcp/gcp-oauth.keys.json",
            "~/.gmail-mcp/gcp-oauth.keys.json",
        ),
        ("GMAIL_CREDENTIALS_PATH", "C:\\Users\\ann\\c.json", "~/c.json"),
        ("KUBECONFIG", "/home/ann/.kube/config", "~/.kube/config"),
        ("TOKEN_FILE", "/opt/secrets/token", "~/token"),
        ("GITHUB_PRIVATE_KEY_PATH", "${userHome}/app.pem", "~/app.pem"),
        ("API_TOKEN", "./token.json", "~/token.json"),
        ("API_TOKEN", "/9j/4AAQSkZJRgABAQEAYABgAAD", None),
        ("LOG_FILE", "/home/ann/x.log", None),
        ("CONFIG_PATH", "/home/ann/x.json", None),
        ("TOKEN_URL", "https://a.example/token.json", None),
        ("TOKEN_FILE", "/opt/../..", None),
        ("CLIENT_KEY_FILE", "/home/ann/client.p12", None),
    ],
)
def test_a_file_with_a_credential_becomes_one_of_each_user(name, value, file) -> None:
    flag = f"--{name.lower().replace('_', '-')}"
    for entry in (
        {"env": {name: value}}, {"args": ["a-server", flag, value]}, {"args": ["a-server", f"{flag}={value}"]}
    ):  # fmt: skip
        made, notes = imported(command="npx", **{"args": ["a-server"], **entry})
        if file is None:
            assert "files" not in made
            assert "4AAQ" not in json.dumps(made) + notes
            continue
        ((place, text),) = made["files"].items()
        assert place == file
        assert text.startswith("${USER_")
        assert text.endswith("}")
        assert f"${{USER_HOME}}/{file[2:]}" in json.dumps([made.get("env"), made["args"]])
        assert "--from-file" in notes
        assert "ann" not in json.dumps(made) + notes
        assert len(re.findall(r"\$\{USER_(?!HOME)", json.dumps(made))) == 1


def test_the_files_of_a_known_server_become_each_users_own() -> None:
    package = "@gongrzhe/server-gmail-autoauth-mcp"
    entry, notes = imported(command="npx", args=["-y", package])
    assert entry["files"]["~/.gmail-mcp/credentials.json"] == "${USER_GMAIL_CREDENTIALS}"
    assert "it reads credentials from ~/.gmail-mcp/gcp-oauth.keys.json" in notes
    own = {"GMAIL_OAUTH_PATH": "~/a.json", "GMAIL_CREDENTIALS_PATH": "~/b.json"}
    entry, notes = imported(command="npx", args=["-y", package], env=own)
    assert set(entry["files"]) == {"~/a.json", "~/b.json"}
    written = {"command": "npx", "args": ["-y", package], "groups": ["everyone"]}
    loaded = parse_settings(json.dumps({"mcpServers": {"one": written}}), {})
    assert any('"~/.gmail-mcp/credentials.json"' in warning for warning in loaded.warnings)


def test_two_files_of_one_name_do_not_become_one() -> None:
    env = {"A_TOKEN_FILE": "/x/key.json", "B_TOKEN_FILE": "/y/key.json"}
    entry, _ = imported(command="npx", args=["a-server"], env=env)
    assert entry["files"] == {"~/key.json": "${USER_A_TOKEN}"}


def test_unknown_servers_are_told_to_have_no_network() -> None:
    assert "without network: one." in imported(command="npx", args=["a-server"])[1]
    assert "network" not in imported(url="https://a.example/mcp")[1]
    github = imported(command="npx", args=["@modelcontextprotocol/server-github"])[1]
    assert "network" not in github


def test_a_client_file_that_is_missing_is_not_to_be_made_by_init(tmp_path) -> None:
    with pytest.raises(SettingsError) as found:
        import_client_file(tmp_path / "claude_desktop_config.json")
    assert "init" not in str(found.value)
    assert "does not exist" in str(found.value)
