"""`mcp_settings.json`: what loads, what is refused, and how it is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from mcphub.catalog.destinations import named_in
from mcphub.catalog.settings_file import (
    LoadedSettings,
    Problem,
    SettingsError,
    load_settings,
    parse_settings,
)
from mcphub.catalog.spec import ServerSpec, Slot
from mcphub.policy.model import Isolation, RiskLevel, Transport

OPERATOR = {"DB_HOST": "db.example.com", "ODD": "a$b${USER_TOKEN}$$", "MCPHUB_KEY": "hub-secret"}


def load(**servers: Any) -> LoadedSettings:
    return parse_settings(json.dumps({"mcpServers": servers}), OPERATOR)


def one(**entry: Any) -> ServerSpec:
    return load(s={"command": "/bin/server", "groups": ["everyone"], **entry}).specs["s"]


def problems(text: str) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, OPERATOR, hub_dir=Path("/srv/hub"))
    return caught.value.problems


def problem(**entry: Any) -> Problem:
    found = problems(json.dumps({"mcpServers": {"s": {"command": "/bin/server", **entry}}}))
    assert len(found) == 1, found
    return found[0]


FULL = """
// servers of the team
{
  "mcpServers": {
    "github": {
      "title": "GitHub", "type": "stdio", "command": "npx", /* pinned later */
      "args": ["-y", "@modelcontextprotocol/server-github",],
      "env": {"GITHUB_PERSONAL_ACCESS_TOKEN": "${USER_GITHUB_TOKEN}", "HOST": "${DB_HOST}"},
      "cwd": "${USER_HOME}/work",
      "riskLevel": "critical", "requiresUserIsolation": true, "isolation": "session",
      "adminOnly": true, "groups": ["dev"], "disabled": true, "timeoutSeconds": 5,
      "tools": {"allow": ["get_*"], "deny": ["*_x"]},
      "sandbox": {"egress": ["API.github.com", "*.example.com", "${DB_HOST}:5432", "10.0.0.1:80"],
                  "redirect": {"api.github.com:443": "127.0.0.1:9000"}, "readable": ["/opt/data"],
                  "memoryMb": 256, "pids": 64, "cpu": 0.5, "files": 128, "tmpMb": 8, "idleSeconds": 30},
    },
    "remote": {"url": "https://mcp.example.com/mcp", "userAware": true,
               "headers": {"Authorization": "Bearer ${USER_API}"}},
  },
}
"""


def test_every_field_is_read_from_json_with_comments() -> None:
    specs = parse_settings(FULL, OPERATOR).specs
    assert list(specs) == ["github", "remote"]
    github = specs["github"]
    assert (github.title, github.transport, github.command) == ("GitHub", Transport.STDIO, "npx")
    assert github.env["HOST"] == "db.example.com"
    assert github.env["GITHUB_PERSONAL_ACCESS_TOKEN"] == "${USER_GITHUB_TOKEN}"
    assert github.slots == (Slot("GITHUB_TOKEN", ("env.GITHUB_PERSONAL_ACCESS_TOKEN",)),)
    assert (github.risk, github.isolation) == (RiskLevel.CRITICAL, Isolation.SESSION)
    assert (github.requires_user_isolation, github.admin_only) == (True, True)
    assert (github.enabled, github.timeout_s, github.groups) == (False, 5, frozenset({"dev"}))
    assert (github.tools_allow, github.tools_deny) == (("get_*",), ("*_x",))
    sandbox = github.sandbox
    assert sandbox.egress == (
        "api.github.com", "*.example.com", "db.example.com:5432", "10.0.0.1:80",
    )  # fmt: skip
    assert sandbox.redirect == {"api.github.com:443": "127.0.0.1:9000"}
    limits = (sandbox.memory_mb, sandbox.pids, sandbox.cpu, sandbox.files, sandbox.tmp_mb)
    assert (*limits, sandbox.idle_s, sandbox.readable) == (256, 64, 0.5, 128, 8, 30, ("/opt/data",))

    remote = specs["remote"]
    assert (remote.transport, remote.user_aware) == (Transport.HTTP, True)
    assert remote.slots == (Slot("API", ("headers.Authorization",)),)
    assert remote.facts().per_user_credential


def test_vscode_inputs_become_slots_defaults_and_variables() -> None:
    text = """{"inputs": [
        {"type": "promptString", "id": "github-token", "password": true},
        {"type": "promptString", "id": "region", "default": "eu$1"},
        {"type": "promptString", "id": "db host"}],
      "servers": {"s": {"type": "stdio", "command": "/bin/s", "env":
        {"A": "${input:github-token}", "B": "${input:region}", "C": "${input:db host}"}}}}"""
    loaded = parse_settings(text, OPERATOR)
    spec = loaded.specs["s"]
    assert dict(spec.env) == {"A": "${USER_GITHUB_TOKEN}", "B": "eu$$1", "C": "db.example.com"}
    assert spec.slot_names == ("GITHUB_TOKEN",)
    assert 'input "db host": set DB_HOST in the environment of the hub.' in loaded.warnings


def test_an_operators_value_is_never_read_as_a_template() -> None:
    spec = one(env={"X": "${ODD}", "Y": "$${USER_NOT} costs $5"})
    assert spec.slots == ()
    assert spec.env["X"] == "a$$b$${USER_TOKEN}$$$$"


@pytest.mark.parametrize("kind", ["http", "sse", "streamable-http", "streamableHttp"])
def test_every_name_of_the_http_transport_is_understood(kind: str) -> None:
    loaded = load(s={"url": "https://a.example/mcp", "transport": kind})
    assert loaded.specs["s"].transport is Transport.HTTP


def test_all_problems_of_a_file_are_told_together_with_path_and_hint() -> None:
    found = problems("""{"mcpServer": {}, "mcpServers": {
        "Bad Name": {"command": "/bin/a"},
        "a": {"command": "/bin/a", "riskLvl": "low", "env": {"K": "${USER_}"}},
        "b": {"command": "/bin/b", "sandbox": {"memoryMB": 5}, "riskLevel": "huge"},
        "c": {"command": "/bin/c", "env": {"K": "${NOT_SET}", "1X": "v", "N": 5}},
        "d": {"command": "/bin/d", "args": ["${USER_TOKEN:-x}", "${nope nope}"]}}}""")
    told = {(p.path, p.message.split(".")[0]): p.hint for p in found}
    paths = [p.path for p in found]
    assert paths == [
        "$.mcpServer", '$.mcpServers["Bad Name"]', "$.mcpServers.a.riskLvl",
        "$.mcpServers.b.riskLevel", "$.mcpServers.b.sandbox.memoryMB", "$.mcpServers.c.env.N",
        "$.mcpServers.d.args[0]", "$.mcpServers.d.args[1]",
    ]  # fmt: skip
    hints = list(told.values())
    assert 'Did you mean "mcpServers"?' in hints
    assert 'Did you mean "riskLevel"?' in hints
    assert 'Did you mean "memoryMb"?' in hints
    assert "Put the value into quotes." in hints


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unset variable is named": ({"env": {"K": "${NOT_SET}"}}, ".env.K", "NOT_SET"),
    "a variable of the hub": ({"env": {"K": "${MCPHUB_KEY}"}}, ".env.K", "MCPHUB_KEY"),
    "a slot without a name": ({"env": {"K": "${USER_}"}}, ".env.K", "slot"),
    "a slot in lower case": ({"env": {"K": "${USER_token}"}}, ".env.K", "slot"),
    "a slot named like a fact": ({"env": {"K": "${USER_USER_ID}"}}, ".env.K", "cannot name"),
    "a credential with a default": ({"env": {"K": "${USER_T:-x}"}}, ".env.K", "slot"),
    "an unknown template": ({"env": {"K": "${input:x}"}}, ".env.K", "unknown"),
    "a template without an end": ({"env": {"K": "${USER_T"}}, ".env.K", "no end"),
    "a slot in the command": ({"command": "${USER_SHELL}"}, ".command", "Nothing of a user"),
    "a fact in the command": ({"command": "${USER_HOME}/x"}, ".command", "Nothing of a user"),
    "a command with its arguments": ({"command": "npx -y pkg"}, ".command", "shell"),
    "a launcher that is not understood": (
        {"command": "npx", "args": ["-c", "x"]},
        ".command",
        "not supported",
    ),
    "a name in a path": ({"cwd": "/x/${USER_NAME}"}, ".cwd", "path"),
    "a credential in a path": ({"cwd": "/x/${USER_T}"}, ".cwd", "path"),
    "an environment name with a dash": ({"env": {"A-B": "x"}}, ".env.A-B", "environment"),
    "command and url": ({"url": "https://a.example"}, "", "Both"),
    "neither command nor url": ({"command": ""}, "", "Neither"),
    "headers of a process": ({"headers": {"A": "b"}}, ".headers", "means nothing"),
    "an isolation of the hub's own": ({"isolation": "builtin"}, ".isolation", "code of the hub"),
    "enabled and disabled": ({"enabled": True, "disabled": False}, ".disabled", "together"),
    "types that disagree": (
        {"type": "stdio", "transport": "http"},
        ".type",
        "disagree",
    ),
    "a client's own setting": ({"autoApprove": []}, ".autoApprove", "unknown"),
    "a file outside of the home": (
        {"files": {"/etc/x": "a"}}, '.files["/etc/x"]', "below the home"
    ),
    "a file above the home": (
        {"files": {"~/../x": "a"}}, '.files["~/../x"]', "below the home"
    ),
    "the home as a file": ({"files": {"~/": "a"}}, '.files["~/"]', "below the home"),
    "a directory as a file": ({"files": {"~/x/": "a"}}, '.files["~/x/"]', "below the home"),
    "a file of somebody's name": (
        {"files": {"~/${USER_NAME}": "a"}}, '.files["~/${USER_NAME}"]', "no template"
    ),
    "a file with an odd name": ({"files": {"~/a\nb": "a"}}, '.files["~/a\\nb"]', "printable"),
    "a file with a long name": (
        {"files": {"~/" + "x" * 300: "a"}}, '.files["~/' + "x" * 78 + '"]', "too long"
    ),
    "a file below another": (
        {"files": {"~/a/b": "x", "~/a": "y"}}, '.files["~/a/b"]', "below another"
    ),
    "too many files": ({"files": {f"~/{n}": "x" for n in range(17)}}, ".files", "more than 16"),
    "an unset variable in a file": (
        {"files": {"~/x": "${NOT_SET}"}}, '.files["~/x"]', "NOT_SET"
    ),
    "a NUL in a value": ({"env": {"K": "a\0b"}}, ".env.K", "NUL"),
    "a time limit of nothing": ({"timeoutSeconds": 0}, ".timeoutSeconds", "greater than 0"),
    "a text for a number": ({"sandbox": {"pids": "12"}}, ".sandbox.pids", "valid integer"),
    "a host as a URL": (
        {"sandbox": {"egress": ["https://api.example.com/x"]}},
        ".sandbox.egress[0]",
        "not a URL",
    ),
    "every host": ({"sandbox": {"egress": ["*"]}}, ".sandbox.egress[0]", "beginning"),
    "a whole top-level domain": ({"sandbox": {"egress": ["*.com"]}}, ".sandbox.egress[0]", "one"),
    "an address without a port": ({"sandbox": {"egress": ["10.0.0.1"]}}, ".sandbox.egress[0]", "port"),
    "a port out of range": ({"sandbox": {"egress": ["a:70000"]}}, ".sandbox.egress[0]", "65535"),
    "a user in egress": ({"sandbox": {"egress": ["${USER_H}"]}}, ".sandbox.egress[0]", "Nothing of"),
    "a redirect without a port": (
        {"sandbox": {"redirect": {"a:1": "b"}}},
        '.sandbox.redirect["a:1"]',
        "port",
    ),
    "a relative readable path": ({"sandbox": {"readable": ["x"]}}, ".sandbox.readable[0]", "absolute"),
    "the whole host": ({"sandbox": {"readable": ["/"]}}, ".sandbox.readable[0]", "host itself"),
    "the hub's directory": ({"sandbox": {"readable": ["/srv"]}}, ".sandbox.readable[0]", "hub's own"),
    "the hub's keys": (
        {"sandbox": {"readable": ["/srv/hub/keys"]}},
        ".sandbox.readable[0]",
        "hub's own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses(case: str) -> None:
    entry, path, message = REFUSED[case]
    found = problem(**entry)
    assert found.path == f"$.mcpServers.s{path}"
    assert message in found.message


HTTP_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another scheme": ({"url": "ftp://a.example"}, "no HTTP URL"),
    "a password in the URL": ({"url": "https://u:p@a.example"}, "no user or password"),
    "a user's host": ({"url": "https://${USER_H}.example"}, "host of a URL"),
    "a port that is none": ({"url": "https://a.example:x/"}, "no URL"),
    "the hub's own header": ({"headers": {"Mcp-Session-Id": "x"}}, "itself"),
    "a header with a line break": ({"headers": {"A": "b\r\nC: d"}}, "one line"),
    "an impossible header": ({"headers": {"A b": "c"}}, "HTTP header"),
    "an environment": ({"env": {"A": "b"}}, "means nothing"),
    "files": ({"files": {"~/x": "b"}}, "means nothing"),
    "OAuth in clear": ({"url": "http://a.example/mcp", "oauth": {}}, "in clear"),
    "OAuth and a header": ({"headers": {"authorization": "x"}, "oauth": {}}, "sets this header"),
    "OAuth and a user's URL": (
        {"url": "https://a.example/${USER_ID}", "oauth": {}},
        "same for all",
    ),
    "OAuth that is shared": ({"isolation": "shared", "oauth": {}}, "cannot be shared"),
    "a secret of no client": ({"oauth": {"clientSecret": "x"}}, "without a client"),
    "scopes in one text": ({"oauth": {"scopes": ["a b"]}}, "no scope"),
    "a private URL": ({"oauth": {"privateHosts": ["https://a.example"]}}, "no host"),
    "a user's client": ({"oauth": {"clientId": "${USER_CLIENT}"}}, "Nothing of a user"),
    "another slot OAUTH": ({"credentialSlots": ["OAUTH"], "oauth": {}}, "authorization itself"),
    "an unknown key of OAuth": ({"oauth": {"clientid": "x"}}, "unknown"),
}


@pytest.mark.parametrize("case", HTTP_REFUSED)
def test_it_refuses_of_an_http_server(case: str) -> None:
    entry, message = HTTP_REFUSED[case]
    server = {"url": "https://a.example/mcp", **entry}
    found = problems(json.dumps({"mcpServers": {"s": server}}))
    assert [message in p.message for p in found] == [True], found


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"mcpServers": []}', "{}", "{'mcpServers': {}}", "[" * 100_000,
             '{"mcpServers": {}, "servers": {}}', '{"mcpServers": {"a": 5}}',
             '{"mcpServers": {"a": {"timeoutSeconds": NaN}}}', "{,}", '{"a":1,,}'],
    ids=range(12),
)  # fmt: skip
def test_what_is_no_settings_file_is_one_clear_error(text: str) -> None:
    assert problems(text)


def test_a_key_that_stands_twice_is_refused_with_its_place() -> None:
    found = problems('{"mcpServers": {"s": {"command": "/bin/a", "env": {"A": "1", "A": "2"}}}}')
    assert [(p.path, p.message) for p in found] == [
        ("$.mcpServers.s.env.A", "The key stands twice.")
    ]


def test_a_syntax_error_names_the_line_of_the_file_despite_comments() -> None:
    found = problems('// one\n{ /* two\n */ "mcpServers": {,}\n}')
    assert found[0].message.startswith("Line 3, column 20:")


def test_no_error_and_no_warning_repeats_a_value() -> None:
    secret = "hunter2-canary"
    text = json.dumps(
        {
            "mcpServers": {
                "a": {
                    "command": "/bin/a",
                    "env": {"K": f"{secret}\0", "L": f"${{{secret} x}}:{secret}", "M": [secret]},
                    "args": [f"${{NOT_SET}} {secret}"],
                    "headers": {"A": f"{secret}\n"},
                },
                "b": {"url": f"https://u:{secret}@b.example", "isolation": secret},
                "c": {"command": "/bin/c", "env": {"K": f"${{USER_X:-{secret}}}"}},
            }
        }
    )
    with pytest.raises(SettingsError) as caught:
        parse_settings(text.replace(f"${{{secret} x}}:", ""), OPERATOR)
    assert secret not in str(caught.value)
    assert "hub-secret" not in str(caught.value)


def test_operator_values_take_part_in_the_revision_and_policy_does_not() -> None:
    entry = {"command": "/bin/s", "env": {"H": "${DB_HOST}"}}
    text = json.dumps({"mcpServers": {"s": entry}})
    first = parse_settings(text, {"DB_HOST": "a"}).specs["s"].revision
    assert parse_settings(text, {"DB_HOST": "a"}).specs["s"].revision == first
    assert parse_settings(text, {"DB_HOST": "b"}).specs["s"].revision != first
    policy = json.dumps({"mcpServers": {"s": {**entry, "groups": ["x"], "riskLevel": "low"}}})
    assert parse_settings(policy, {"DB_HOST": "a"}).specs["s"].revision == first


def test_a_known_package_gets_its_hosts_and_advice_but_no_risk_level() -> None:
    args = ["-y", "@modelcontextprotocol/server-github@2025.4.8"]
    loaded = load(s={"command": "npx", "args": args, "groups": ["everyone"]})
    assert loaded.specs["s"].sandbox.egress == ("api.github.com",)
    assert loaded.specs["s"].risk is None
    assert any('"critical" is suggested' in warning for warning in loaded.warnings)
    assert any("2026-11-22" in warning for warning in loaded.warnings)


def test_an_empty_egress_list_stays_empty_for_a_known_package() -> None:
    args = ["mcp-weather-server==0.6.1"]
    closed = {"command": "uvx", "args": args, "sandbox": {"egress": []}}
    assert load(s=closed).specs["s"].sandbox.egress == ()
    assert load(s={"command": "uvx", "args": args}).specs["s"].sandbox.egress != ()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"args": ["--token", "${USER_T}"]}, "process lists"),
        ({"groups": []}, "only administrators"),
        ({"command": "", "url": "http://a.example/${USER_T}"}, "prefer headers"),
        ({"command": "", "url": "http://a.example/"}, "in clear"),
        (
            {"command": "npx", "args": ["@modelcontextprotocol/server-memory"]},
            "MEMORY_FILE_PATH",
        ),
        ({"command": "uvx", "args": ["mysql-mcp-server"]}, "no network"),
    ],
)
def test_it_warns(entry: dict[str, Any], words: str) -> None:
    loaded = load(s={"command": "/bin/s", "groups": ["everyone"], **entry})
    assert any(words in warning for warning in loaded.warnings), loaded.warnings


def test_a_credential_in_a_file_counts_as_one_in_the_environment() -> None:
    entry = {"riskLevel": "medium", "isolation": "shared"}
    filed = one(files={"~/.config/x.json": '{"a": "${USER_KEY}", "$b": 1}'}, **entry)
    placed = one(env={"KEY": "${USER_KEY}"}, **entry)
    assert filed.slots == (Slot("KEY", ("files.~/.config/x.json",)),)
    assert filed.files == {".config/x.json": '{"a": "${USER_KEY}", "$b": 1}'}
    assert filed.facts().per_user_credential and filed.facts().names_user
    assert filed.facts() == placed.facts()
    other = one(files={"~/.config/x.json": "${USER_KEY}"}, **entry)
    assert len({filed.revision, placed.revision, other.revision, one(**entry).revision}) == 4
    operators = one(files={"~/x": "${ODD}"})
    assert not operators.slots
    assert operators.files == {"x": "a$$b$${USER_TOKEN}$$$$"}


def test_a_process_that_is_told_who_its_user_is_is_never_shared() -> None:
    assert one(args=["--home", "${USER_HOME}"]).facts().names_user
    assert one(env={"T": "${USER_T}"}).facts().per_user_credential
    assert not one().facts().names_user


def test_the_file_is_read_with_its_mark_and_its_name_only_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mcp_settings.json"
    with pytest.raises(SettingsError) as caught:
        load_settings(path, OPERATOR)
    assert "mcphub init" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    path.write_bytes(b'\xef\xbb\xbf{"mcpServers": {"s": {"command": "/bin/s"}}}')
    assert list(load_settings(path, OPERATOR).specs) == ["s"]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError):
        load_settings(path, OPERATOR)


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["https://a.example/x?y", "see https://a.example"], ["a.example"]),
        (["postgresql://u:${USER_PASSWORD}@db.example/x"], ["db.example:5432"]),
        (["mongodb://u:p%40ss@127.0.0.1:27018/x"], ["127.0.0.1:27018"]),
        (["http://localhost:3000", "--url=http://b.example"], ["localhost:3000", "b.example:80"]),
        (["https://${HOST}/x", "file:///etc/x", "data:x", "md:", "https://"], []),
        (["postgresql://u:p@ss@host/x"], []),
        (["jdbc:mysql://db.example:3307/x"], ["db.example:3307"]),
    ],
)
def test_addresses_that_a_server_is_given_and_cannot_reach_are_told(texts, named) -> None:
    assert named_in(texts) == named
    entry = {"command": "npx", "args": ["a-server", *texts], "groups": ["everyone"]}

    def warnings(**more: object) -> str:
        text = json.dumps({"mcpServers": {"one": {**entry, **more}}})
        return "\n".join(parse_settings(text, {"HOST": "h", "USER_PASSWORD": "x"}).warnings)

    assert (json.dumps({"egress": named}) in warnings()) is bool(named)
    assert "has no network" not in warnings(sandbox={"egress": []})  # it was decided


def test_a_server_in_a_container_is_told_to_be_none_for_an_instance() -> None:
    for command in ("docker", "/usr/bin/podman"):
        text = json.dumps({"mcpServers": {"one": {"command": command, "args": ["run", "x"]}}})
        assert any("no engine" in warning for warning in parse_settings(text, {}).warnings)
