"""The command line as real processes on a real hub directory, with and without a running hub."""

import asyncio
import csv
import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest
from alembic.command import upgrade

from mcphub.ground import the_only_hub
from mcphub.store.database import Database
from mcphub.store.migrate import config

MCPHUB = str(Path(sys.executable).parent / "mcphub")
CANARY = "ghp_canary_value_of_anna"
SETTINGS = {
    "mcpServers": {
        "github": {
            "command": "cat",
            "env": {"TOKEN": "${USER_GITHUB_TOKEN}", "FIXED": "operators-secret"},
            "riskLevel": "critical",
            "groups": ["devs"],
        }
    }
}


class Hub:
    """A hub directory and its command line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        self.env = kept | {"MCPHUB_DIR": str(directory), "HOME": str(directory.parent)}

    def run(self, *words: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MCPHUB, *words], input=stdin, env=self.env | env, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    def ask(self, *words: str, stdin: str = "") -> Any:
        done = self.run(*words, "--json", stdin=stdin)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    hub = Hub(tmp_path / "hub")
    assert hub.ask("init")["key"].startswith("mcphub_")
    (hub.directory / "mcp_settings.json").write_text(json.dumps(SETTINGS))
    return hub


@pytest.fixture
def served(hub: Hub, tmp_path: Path) -> Iterator[str]:
    """URL of the hub, running."""
    ready = tmp_path / "ready.json"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [MCPHUB, "serve", "--port", "0", "--ready-file", str(ready), "--allow-unsandboxed"],
            env=hub.env, stdout=log, stderr=log,
        )  # fmt: skip
    deadline = time.monotonic() + 90
    while not ready.exists():
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    told = json.loads(ready.read_text())
    assert told["pid"] == process.pid
    yield told["url"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not ready.exists()


def test_what_the_command_line_says_to_run_next_is_for_the_hub_that_was_named(hub: Hub) -> None:
    elsewhere = {"MCPHUB_DIR": str(hub.directory.with_name("nowhere"))}
    option = ("--dir", str(hub.directory))
    added = hub.run("user", "add", "anna", *option, **elsewhere)
    unknown = hub.run("server", "show", "zzz", *option, **elsewhere)
    assert f"Next: mcphub key create --dir {hub.directory} anna" in added.stderr
    assert f"hint: Run: mcphub server list --dir {hub.directory}" in unknown.stderr
    assert "--dir" not in hub.run("user", "add", "ben").stderr


def test_init_makes_everything_privately_and_once(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "new" / "hub")
    first = hub.ask("init", "--admin", "root")
    second = hub.ask("init")
    assert first["admin"] == second["admin"] == "root"
    assert (second["made"], second["key"]) == ([], None)
    assert hub.directory.stat().st_mode & 0o777 == 0o700
    for name in ("hub.db", "mcphub.toml", "mcp_settings.json", "keys/vault.keys"):
        assert (hub.directory / name).stat().st_mode & 0o777 == 0o600, name


def test_a_server_that_cannot_be_listed_is_named_with_the_reason(hub: Hub, served: str) -> None:
    dead = {"command": "/bin/false", "groups": ["everyone"], "riskLevel": "low"}
    entries = SETTINGS["mcpServers"] | {"dead": dead}
    (hub.directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": entries}))
    key = hub.ask("key", "create", "admin")["key"]
    deadline, missing = time.monotonic() + 60, {}
    while "dead" not in missing:
        assert time.monotonic() < deadline, missing
        time.sleep(0.2)  # until the hub has seen the edit
        missing = (
            _modern(f"{served}/mcp", key, "tools/list", {})
            .get("_meta", {})
            .get("dev.mcphub/unavailable", {})
        )
    servers = {entry["name"]: entry for entry in hub.ask("server", "list")}
    assert servers["dead"]["unavailable"] and servers["github"]["unavailable"] == []
    listed = hub.run("server", "list")
    assert "not listed" in listed.stdout and "dead cannot be listed" in listed.stderr
    assert "dead cannot be listed for admin" in hub.run("instances").stderr


def test_explain_knows_which_tools_a_server_has_and_says_where_it_does_not(
    hub: Hub, served: str
) -> None:
    needs = hub.ask("explain", "admin", "github", "create_issue")["steps"][-1]
    assert (needs["rule"], "own credentials" in needs["finding"]) == ("tool", True)
    server = Path(__file__).parent.parent / "servers" / "plain.py"
    plain = {"command": sys.executable, "args": [str(server)], "groups": ["everyone"],
             "sandbox": {"readable": [str(server)]}, "tools": {"deny": ["crash"]}}  # fmt: skip
    (hub.directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": {"plain": plain}}))
    keys = {}
    for name in ("anna", "ben"):
        hub.ask("user", "add", name)
        keys[name] = hub.ask("key", "create", name)["key"]
    _until(lambda: "has no tool" in hub.run("explain", "anna", "plain", "ecko").stderr)
    near = hub.run("explain", "anna", "plain", "ecko")
    assert (near.returncode, "Did you mean 'echo'?" in near.stderr) == (1, True)
    assert "It has: ask, cancelled" in hub.run("explain", "anna", "plain", "zzzzzz").stderr
    echo, crash = (hub.ask("explain", "anna", "plain", name) for name in ("echo", "crash"))
    assert (echo["allowed"], crash["allowed"]) == (True, False)
    assert "tool" not in {step["rule"] for step in echo["steps"]}
    # a tool that anna's own instance has since her call is hers alone
    for name, params in (("tools/call", {"name": "change"}), ("tools/list", {})):
        _modern(f"{served}/mcp/plain", keys["anna"], name, params)
    assert hub.ask("explain", "anna", "plain", "new_tool")["allowed"]
    _modern(f"{served}/mcp/plain", keys["ben"], "tools/call", {"name": "recall", "arguments": {}})
    assert "has no tool 'new_tool'" in hub.run("explain", "ben", "plain", "new_tool").stderr


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline


def _modern(url: str, key: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the result of one request of the modern era."""
    version = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {
        "Authorization": f"Bearer {key}", "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version, "Mcp-Method": method,
    } | ({"Mcp-Name": params["name"]} if "name" in params else {})  # fmt: skip
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}}
    return httpx2.post(url, json=body, headers=headers, timeout=30).json()["result"]


def test_users_groups_and_keys_have_a_whole_life(hub: Hub) -> None:
    anna = hub.ask("user", "add", "anna")
    hub.ask("user", "add", "ben", "--admin")
    hub.ask("group", "add", "devs")
    hub.ask("group", "join", "devs", "anna", "--expires", "30d")
    key = hub.ask("key", "create", "anna", "--label", "laptop")
    users = {user["name"]: user for user in hub.ask("user", "list")}
    assert users["anna"]["groups"] == ["devs"]
    assert users["ben"]["role"] == "admin"
    listed = hub.run("key", "list", "--user", "anna", "--json").stdout
    assert key["key"] not in listed
    assert json.loads(listed)[0]["label"] == "laptop"
    assert hub.ask("key", "revoke", key["id"])["revoked_at"]
    hub.ask("group", "leave", "devs", "anna")
    assert hub.ask("user", "remove", "anna", "--yes")["id"] == anna["id"]
    assert {user["name"] for user in hub.ask("user", "list")} == {"admin", "ben"}


def test_many_users_come_from_a_table_each_with_an_own_key(
    hub: Hub, served: str, tmp_path: Path
) -> None:
    table, keys = tmp_path / "people.csv", tmp_path / "keys.csv"
    words = ["user", "import", str(table), "--keys", str(keys)]
    table.write_text("name,groups\nanna,devs ops\nben,\n")
    refused = hub.run(*words)
    assert (refused.returncode, "'devs', 'ops'" in refused.stderr) == (1, True)
    assert "--add-groups" in refused.stderr
    assert [user["name"] for user in hub.ask("user", "list")] == ["admin"]
    assert not keys.exists()
    done = hub.ask(*words, "--add-groups")
    assert done == {"added": 2, "known": 0, "joined": 2, "keys": 2, "groups": ["devs", "ops"]}
    assert keys.stat().st_mode & 0o777 == 0o600
    written = list(csv.DictReader(keys.read_text().splitlines()))
    assert [row["name"] for row in written] == ["anna", "ben"]
    for row, groups in zip(written, (["devs", "everyone", "ops"], ["everyone"]), strict=True):
        headers = {"Authorization": f"Bearer {row['key']}"}
        told = httpx2.get(f"{served}/api/me", headers=headers).json()
        assert (told["name"], told["groups"]) == (row["name"], groups)
    assert "there already" in hub.run(*words).stderr
    # again, with one more and another group: nobody is changed who need not be
    more = "name,groups,role\nanna,devs,\nben,ops,user\ncleo,ops,admin\n"
    done = hub.ask("user", "import", "-", "--keys", str(tmp_path / "more.csv"), stdin=more)
    assert done == {"added": 1, "known": 2, "joined": 2, "keys": 1, "groups": []}
    assert [
        row["name"] for row in csv.DictReader((tmp_path / "more.csv").read_text().splitlines())
    ] == ["cleo"]
    users = {user["name"]: user for user in hub.ask("user", "list")}
    assert (sorted(users["anna"]["groups"]), users["cleo"]["role"]) == (["devs", "ops"], "admin")
    table.write_text("name,role\ndora,user\nben,admin\n")
    refused = hub.run("user", "import", str(table))
    assert (refused.returncode, "mcphub user role ben admin" in refused.stderr) == (1, True)
    assert "dora" not in {user["name"] for user in hub.ask("user", "list")}
    for key in (row["key"] for row in written):
        assert key not in json.dumps(hub.ask("audit", "list"))


def test_errors_are_one_line_with_a_hint_and_the_right_status(hub: Hub) -> None:
    hub.ask("user", "add", "anna")
    missing = hub.run("user", "show", "ana")
    assert missing.returncode == 1
    assert missing.stderr.splitlines() == [
        "error: There is no user 'ana'.", "hint: Did you mean 'anna'?"
    ]  # fmt: skip
    assert json.loads(hub.run("user", "show", "ana", "--json").stderr)["code"] == "not_found"
    for words in (
        ["usr"],
        ["user", "ad"],
        ["user", "add"],
        ["key", "create", "anna", "--expires", "3x"],
    ):
        wrong = hub.run(*words)
        assert (wrong.returncode, wrong.stdout) == (2, ""), words
        assert "Traceback" not in wrong.stderr
    assert "Did you mean 'user'" in hub.run("usr").stderr
    nowhere = hub.run("user", "list", "--dir", str(hub.directory / "none"))
    assert (nowhere.returncode, "mcphub init" in nowhere.stderr) == (1, True)


def test_a_broken_settings_file_is_told_with_its_place(hub: Hub) -> None:
    (hub.directory / "mcp_settings.json").write_text('{"mcpServers": {"a": {"comand": "x"}}}')
    done = hub.run("server", "list")
    assert done.returncode == 1
    assert "$.mcpServers.a" in done.stderr
    assert "command" in done.stderr


def test_removing_a_user_asks_first_and_deletes_the_files_of_that_user_only(hub: Hub) -> None:
    anna, ben = hub.ask("user", "add", "anna")["id"], hub.ask("user", "add", "ben")["id"]
    outside = hub.directory / "outside"
    outside.write_text("stays")
    for user in (anna, ben):
        home = hub.directory / "homes" / user / "github"
        home.mkdir(parents=True)
        (home / "notes.txt").write_text("private")
        (home / "link").symlink_to(outside)
    refused = hub.run("user", "remove", "anna")
    assert (refused.returncode, "--yes" in refused.stderr) == (1, True)
    assert hub.ask("user", "remove", "anna", "--yes")["files"] == 2
    assert [path.name for path in (hub.directory / "homes").iterdir()] == [ben]
    assert outside.read_text() == "stays"


def test_a_value_comes_from_stdin_or_a_silent_prompt_and_is_never_shown(hub: Hub) -> None:
    hub.ask("user", "add", "anna")
    hub.ask("group", "add", "devs")
    hub.ask("group", "join", "devs", "anna")
    words = ["credential", "set", "github", "GITHUB_TOKEN", "--user", "anna"]
    done = hub.run(*words, stdin=CANARY + "\n")
    shown = [hub.run("credential", "list", "--user", "anna"), hub.run("user", "show", "anna"), done]
    assert done.returncode == 0
    assert "github" in shown[0].stdout
    assert not any(CANARY in one.stdout + one.stderr for one in shown)
    other = hub.run("credential", "set", "github", "OTHER", "--user", "anna", stdin="x")
    assert (other.returncode, "GITHUB_TOKEN" in other.stderr) == (1, True)
    screen, process = _on_a_terminal(hub, [*words], CANARY + "\n")
    assert process == 0
    assert CANARY not in screen


def _on_a_terminal(hub: Hub, words: list[str], typed: str) -> tuple[str, int]:
    """Run with a terminal as stdin; return what the terminal showed and the exit status."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        [MCPHUB, *words], stdin=terminal, stdout=terminal, stderr=terminal, env=hub.env,
        start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    asked = False
    while True:
        try:
            shown += os.read(screen, 4096)
        except OSError:
            break
        if not asked and b"GITHUB_TOKEN of github:" in shown:
            os.write(screen, typed.encode())
            asked = True
    os.close(screen)
    return shown.decode(), process.wait(30)


def test_servers_are_added_shown_explained_and_switched(hub: Hub) -> None:
    hub.ask("user", "add", "anna")
    added = hub.run(
        "server", "add", "tool", "--group", "everyone", "--risk", "low", "--env", "A=${USER_A}",
        "--", "uvx", "mcp-server-time", "--dir", "x",
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    assert "no network" in added.stderr and "--egress HOST" in added.stderr
    reaching = ("server", "add", "far", "--egress", "far.example.com", "--", "uvx", "mcp-far")
    assert "no network" not in hub.run(*reaching).stderr
    listed = {server["name"]: server for server in hub.ask("server", "list")}
    assert set(listed) == {"github", "tool", "far"}
    shown = hub.run("server", "show", "tool", "--json").stdout
    assert json.loads(shown)["written"]["args"] == ["mcp-server-time", "--dir", "x"]
    assert json.loads(shown)["slots"] == ["A"]
    assert "operators-secret" not in hub.run("server", "show", "github", "--json").stdout
    hub.ask("server", "disable", "tool")
    assert hub.ask("explain", "anna", "tool")["rule"] == "server-disabled"
    hub.ask("server", "enable", "tool")
    not_yet = hub.ask("explain", "anna", "tool", "get_time")["steps"][-1]
    assert (not_yet["rule"], "mcphub serve" in not_yet["finding"]) == ("tool", True)
    assert hub.ask("explain", "anna", "github")["rule"] == "not-in-group"
    assert hub.ask("explain", "admin", "github")["allowed"]
    typed = hub.run("server", "add", "typo", "--group", "evryone", "--", "/bin/true")
    assert "no group evryone" in typed.stderr
    assert "no group evryone" in hub.run("server", "list").stderr


def test_the_name_of_a_server_is_checked_as_that_server_although_a_program_has_the_name(
    hub: Hub,
) -> None:
    assert hub.run("server", "add", "true", "--", "/bin/false").returncode == 0
    assert "never" in hub.run("server", "show", "true").stdout
    hub.run("check", "true", "--budget", "20")
    assert "never" not in hub.run("server", "show", "true").stdout


def test_an_import_leaves_out_what_is_there_when_asked_and_loses_nothing(
    hub: Hub, tmp_path: Path
) -> None:
    theirs = {"github": {"command": "/bin/true"}, "fresh": {"command": "/bin/true"}}
    file = tmp_path / "claude_desktop_config.json"
    file.write_text(json.dumps({"mcpServers": theirs}))
    before = (hub.directory / "mcp_settings.json").read_text()
    refused = hub.run("server", "import", str(file))
    assert refused.returncode == 1
    assert "--skip-existing" in refused.stderr
    assert (hub.directory / "mcp_settings.json").read_text() == before
    done = hub.run("server", "import", "--skip-existing", str(file), "--json")
    assert list(json.loads(done.stdout)["entries"]) == ["fresh"]
    assert '"github"' in done.stderr
    assert {"github", "fresh"} <= {server["name"] for server in hub.ask("server", "list")}


def test_settings_show_value_and_origin_and_client_settings_hold_no_key(hub: Hub) -> None:
    (hub.directory / "mcphub.toml").write_text(
        'database = "postgresql://me:canary-password@db/hub"\n[listen]\nport = 9000\n'
        '[tracing]\nendpoint = "https://otlp"\nheaders = { "x-key" = "canary-header" }\n'
    )
    shown = hub.run("config", "show", "--json", MCPHUB_RETENTION_DAYS="7").stdout
    assert json.loads(shown)["listen.port"] == {"value": 9000, "origin": "mcphub.toml"}
    assert json.loads(shown)["retention_days"] == {"value": 7, "origin": "environment"}
    assert "canary-" not in shown
    headers = {"value": {"x-key": "…"}, "origin": "mcphub.toml"}
    assert json.loads(shown)["tracing.headers"] == headers
    mistaken = hub.run("config", "show", MCPHUB_LISTEN_PORT="1")
    assert "write MCPHUB_LISTEN__PORT" in mistaken.stderr
    for client in ("claude-desktop", "claude-code", "cursor", "vscode"):
        told = hub.run("client-config", client, "--server", "github", MCPHUB_KEY=CANARY)
        assert "http://127.0.0.1:9000/mcp/github" in told.stdout
        assert CANARY not in told.stdout


def test_client_settings_name_the_port_that_the_running_hub_has(hub: Hub, served: str) -> None:
    assert f'"{served}/mcp"' in hub.run("client-config", "cursor").stdout


def test_a_revocation_counts_at_once_and_users_set_their_own_values_by_url(
    hub: Hub, served: str
) -> None:
    hub.ask("group", "add", "devs")
    keys = {}
    for name in ("anna", "ben"):
        hub.ask("user", "add", name)
        keys[name] = hub.ask("key", "create", name)
    hub.ask("group", "join", "devs", "anna")

    def status(name: str) -> int:
        bearer = {"Authorization": f"Bearer {keys[name]['key']}"}
        return httpx2.get(f"{served}/api/me", headers=bearer, trust_env=False).status_code

    assert (status("anna"), status("ben")) == (200, 200)

    def set_own(name: str) -> subprocess.CompletedProcess[str]:
        words = ["credential", "set", "github", "GITHUB_TOKEN", "--url", served]
        nowhere = str(hub.directory / "no-access")
        return hub.run(*words, stdin=CANARY, MCPHUB_KEY=keys[name]["key"], MCPHUB_DIR=nowhere)

    assert set_own("anna").returncode == 0
    refused = set_own("ben")
    assert (refused.returncode, "no such server for you" in refused.stderr) == (1, True)
    listed = hub.ask("credential", "list", "--user", "anna")
    assert [(entry["slot"], entry["set"]) for entry in listed] == [("GITHUB_TOKEN", True)]
    hub.ask("key", "revoke", keys["anna"]["id"])
    assert status("anna") == 401
    hub.ask("user", "disable", "ben")
    assert status("ben") == 401
    assert hub.ask("instances") == []
    assert hub.run("instances", "stop", "i_nothing").returncode == 1
    assert hub.ask("requests") == []


def test_the_vaults_key_is_rotated_and_the_old_one_goes_only_when_nothing_needs_it(
    hub: Hub,
) -> None:
    for name in ("anna", "ben"):
        hub.ask("user", "add", name)
        hub.ask(
            "credential", "set", "github", "GITHUB_TOKEN", "--user", name, stdin=f"{CANARY}-{name}"
        )
    (old,) = hub.ask("vault", "keys")
    assert old["seals"] and old["credentials"] == 2
    rotated = hub.ask("vault", "rotate")
    assert rotated["resealed"] == 2 and rotated["old"] == [old["id"]]
    assert hub.run("vault", "retire", rotated["key"]).returncode == 1
    hub.ask("vault", "retire", old["id"])
    (left,) = hub.ask("vault", "keys")
    assert left["id"] == rotated["key"] and left["credentials"] == 2


def kept(hub: Hub) -> list[object]:
    """All that an administrator's commands change, as it is in the database."""
    names = ("users", "groups", "memberships", "api_keys", "credentials", "server_states")
    with closing(sqlite3.connect(hub.directory / "hub.db")) as database:
        return [database.execute(f"SELECT * FROM {name}").fetchall() for name in names]


def test_nothing_is_done_that_the_audit_log_cannot_tell_of(hub: Hub, tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        hub.ask("user", "add", name)
    for name in ("devs", "ops"):
        hub.ask("group", "add", name)
    hub.ask("group", "join", "devs", "anna")
    hub.ask("user", "disable", "ben")
    key = hub.ask("key", "create", "anna")["id"]
    hub.ask("credential", "set", "github", "GITHUB_TOKEN", "--user", "anna", stdin="secret\n")
    people = tmp_path / "people.csv"
    people.write_text("name\ncleo\n")
    with closing(sqlite3.connect(hub.directory / "hub.db")) as database:
        database.execute(
            "CREATE TRIGGER no_event BEFORE INSERT ON audit_events "
            "BEGIN SELECT RAISE(ABORT, 'none'); END"
        )
    before = kept(hub)
    for command in (
        "user add dora", "user role anna admin", "user disable anna", "user enable ben", "user remove anna --yes",
        "user remove anna --after 30d --yes", "group add qa", "group remove ops", "group join ops anna",
        "group leave devs anna", "key create anna", f"key revoke {key}", "server disable github",
        "credential set github GITHUB_TOKEN --user anna", "credential delete github GITHUB_TOKEN --user anna",
        f"user import {people}",
    ):  # fmt: skip
        done = hub.run(*command.split(), stdin="other\n")
        assert (done.returncode, kept(hub)) == (1, before), (command, done.stderr)
    assert hub.ask("audit", "verify")["intact"]


def test_the_audit_log_tells_what_was_done_and_notices_a_change(hub: Hub) -> None:
    hub.ask("user", "add", "anna")
    hub.ask("credential", "set", "github", "GITHUB_TOKEN", "--user", "anna", stdin=CANARY)
    events = hub.ask("audit", "list")
    assert {"user:created", "credential:set"} <= {event["action"] for event in events}
    assert CANARY not in json.dumps(events)
    assert hub.ask("audit", "verify")["intact"]
    with sqlite3.connect(hub.directory / "hub.db") as database:
        database.execute("UPDATE audit_events SET subject = 'u_other' WHERE seq = 1")
    broken = hub.run("audit", "verify")
    assert broken.returncode == 1 and "changed" in broken.stderr


def test_an_older_database_stays_as_it_is_while_a_hub_of_its_version_runs(hub: Hub) -> None:
    def version() -> str:
        with closing(sqlite3.connect(hub.directory / "hub.db")) as database:
            return database.execute("SELECT version_num FROM alembic_version").fetchone()[0]

    async def older() -> None:
        async with Database.at(f"sqlite:///{hub.directory}/hub.db") as db, db.write() as conn:
            await conn.run_sync(lambda connection: upgrade(config(connection), "0004"))

    newest = version()
    for file in hub.directory.glob("hub.db*"):
        file.unlink()
    asyncio.run(older())
    with the_only_hub(hub.directory / "run"):
        for command in (("user", "list"), ("user", "add", "anna"), ("doctor",)):
            done = hub.run(*command)
            assert done.returncode == 1
            assert "hub of that version still runs" in done.stdout + done.stderr
            assert version() == "0004"
    assert hub.ask("user", "list") == []
    assert version() == newest
