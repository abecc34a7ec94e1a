"""`mcphub check` as a person runs it: exit statuses, JSON, settings patch, evidence, reports."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.isolation import mutants
from tests.packages_fixture import CACHE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
TIME = ["uvx", "mcp-server-time==2026.10.19", "--local-timezone", "UTC"]
MEMORY = ["npx", "-y", "@modelcontextprotocol/server-memory@2026.8.31"]
MAIN = "import sys; from mcphub.cli import main; sys.exit(main())"


def run(directory: Path, *words: str, expected: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        env=os.environ | {"MCPHUB_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def hub(tmp_path):
    """A hub with two servers that no server has been started of."""
    directory = tmp_path / "hub"
    run(directory, "init")
    CACHE.mkdir(parents=True, exist_ok=True)
    (directory / "packages").symlink_to(CACHE)
    run(
        directory,
        "server",
        "add",
        "clock",
        "--group",
        "everyone",
        "--risk",
        "critical",
        "--",
        *TIME,
    )
    return directory


def test_a_check_without_a_leak_becomes_evidence_for_sharing_by_apply(hub):
    out = json.loads(run(hub, "check", "clock", "--json", "--apply", "--yes"))
    assert (out["verdict"], out["safe_to_share"]) == ("no_leak_seen", True)
    shown = json.loads(run(hub, "server", "show", "clock", "--json"))
    assert (shown["risk"], shown["isolation"]) == ("low", "shared")
    (proof,) = shown["evidence"]
    assert (proof["kind"], proof["version"]) == ("check", "2026.10.19")
    assert "no_leak_seen for 2026.10.19" in run(hub, "server", "show", "clock")
    # evidence speaks of these settings only
    file = hub / "mcp_settings.json"
    file.write_text(file.read_text().replace('"UTC"', '"Europe/Paris"'))
    shown = json.loads(run(hub, "server", "show", "clock", "--json"))
    assert shown["isolation"] == "user"
    assert "check again" in run(hub, "server", "show", "clock")


def test_a_leak_is_exit_status_1_with_reports_and_nothing_is_written_without_apply(hub, tmp_path):
    page, sarif = tmp_path / "page.html", tmp_path / "log.sarif"
    before = (hub / "mcp_settings.json").read_text()
    words = ["check", "--html", str(page), "--sarif", str(sarif), "--json"]
    out = json.loads(run(hub, *words, "--", *MEMORY, expected=1))
    assert out["classes"] == ["state"]
    assert "<script" not in page.read_text() and "state" in page.read_text()
    (result,) = json.loads(sarif.read_text())["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("state", "error")
    assert (hub / "mcp_settings.json").read_text() == before


def test_what_cannot_be_run_is_exit_status_3_and_what_does_not_start_is_2(tmp_path):
    directory = tmp_path / "none"
    run(directory, "check", "--", "/no/such/program", expected=3)
    run(directory, "check", expected=3)
    run(directory, "check", "--", "/bin/false", expected=2)


def test_a_manifest_gives_one_line_for_each_server(tmp_path):
    manifest = tmp_path / "servers.json"
    entries = [
        {
            "id": "clock",
            "install": "uv venv -p 3.11 && uv pip install mcp-server-time==2026.10.19",
            "command": "mcp-server-time",
            "args": ["--local-timezone", "UTC"],
            "env": {},
            "transport": "stdio",
            "path": None,
        },
        {"id": "gone", "install": "npm i no-such-package-of-anybody@1.2.3", "command": "node"},
    ]
    manifest.write_text(json.dumps(entries))
    directory = tmp_path / "dir"
    directory.mkdir(0o700)
    (directory / "packages").symlink_to(CACHE)
    lines = run(directory, "check", "--manifest", str(manifest), expected=2).splitlines()
    clock, gone = map(json.loads, lines)
    assert (clock["id"], clock["verdict"], clock["safe_to_share"]) == (
        "clock",
        "no_leak_seen",
        True,
    )
    assert (gone["id"], gone["verdict"], gone["safe_to_share"]) == ("gone", "inconclusive", None)


def test_through_the_hub_the_same_probes_find_nothing_where_sharing_leaks(hub):
    entry = {"groups": ["everyone"], "command": "npx"}
    files = ["-y", "@modelcontextprotocol/server-filesystem@2026.8.31", "${USER_HOME}/data"]
    servers = {
        "memory": entry | {"args": MEMORY[1:], "env": {"MEMORY_FILE_PATH": "${USER_HOME}/m.jsonl"}},
        "files": entry | {"args": files},
    }
    (hub / "mcp_settings.json").write_text(json.dumps({"mcpServers": servers}))
    lines = run(hub, "check", "--through-hub", "--all", "--json").splitlines()
    results = [json.loads(line) for line in lines]
    assert [(r["id"], r["verdict"]) for r in results] == [
        ("memory", "no_leak_seen"),
        ("files", "no_leak_seen"),
    ]
    assert all(len(r["coverage"]["succeeded"]) >= 6 for r in results)


def test_a_file_of_settings_is_laid_into_the_home_without_its_secrets(hub, tmp_path):
    place = tmp_path / "server"
    shutil.copytree(Path(mutants.__file__).parent, place / "mutants")
    script = place / "main.py"
    script.write_text("import runpy\nrunpy.run_module('mutants', run_name='__main__')\n")
    settings = tmp_path / "own.json"
    settings.write_text('{"site": "http://api.acme.test", "token": "hello-from-the-desk"}')
    command = ["--", "/usr/bin/python3", str(script), "TokenInFile", "leaky"]
    words = ["check", "--json", "--file", f"{{home}}/.acme/config.json={settings}", *command]
    said = run(hub, *words, expected=1)
    assert json.loads(said)["classes"] == ["token"]
    assert "file:config.json:token" in said and "hello-from-the-desk" not in said


@pytest.mark.parametrize(
    "given",
    ["/etc/passwd={file}", "{{home}}/../x={file}", "{{home}}={file}", "{{home}}/x={file}.none"],
)
def test_a_file_that_cannot_be_laid_is_told(hub, tmp_path, given):
    file = tmp_path / "x"
    file.write_text("x")
    run(hub, "check", "--file", given.format(file=file), "--", "/bin/cat", expected=3)
