"""`mcphub context`: what a server is told of a user, and the keys that sign it."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MCPHUB = str(Path(sys.executable).parent / "mcphub")
SETTINGS = {
    "mcpServers": {
        "notes": {
            "url": "https://notes.example/mcp",
            "userAware": True,
            "userContext": {"permissions": {"everyone": ["read"]}},
            "credentialSlots": ["GITHUB_TOKEN"],
            "groups": ["everyone"],
        },
        "plain": {"command": "cat", "groups": ["everyone"]},
    }
}


class Hub:
    """A hub directory and its command line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {"PATH": os.environ["PATH"], "MCPHUB_DIR": str(directory)}

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MCPHUB, *words], env=self.env, capture_output=True, text=True, timeout=120, check=False
        )

    def ask(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def keys(self) -> Path:
        return self.directory / "keys" / "context.keys"


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    made = Hub(tmp_path / "hub")
    made.ask("init")
    (made.directory / "mcp_settings.json").write_text(json.dumps(SETTINGS))
    for user in ("anna", "bert"):
        made.ask("user", "add", user)
    return made


def test_it_shows_what_a_server_is_told_of_a_user_and_what_not(hub: Hub) -> None:
    anna, bert = (hub.ask("context", "show", user, "notes") for user in ("anna", "bert"))
    assert anna["audience"] == "https://notes.example/mcp"
    assert anna["issuer"].startswith("urn:mcphub:install:")
    assert (anna["permissions"], anna["groups"]) == (["read"], [])
    assert anna["credentials"] == ["X-MCPHub-GitHub-Token"]
    assert anna["subject"] != bert["subject"]
    assert anna["subject"] == hub.ask("context", "show", "anna", "notes")["subject"]
    assert "anna" not in json.dumps(anna)
    assert hub.ask("context", "show", "anna", "plain") == {"server": "plain", "told": False}
    assert "userAware" in hub.run("context", "show", "anna", "plain").stdout
    assert "server list" in hub.run("context", "show", "anna", "nowhere").stderr


def test_a_rotation_keeps_the_old_key_until_nothing_needs_it(hub: Hub) -> None:
    subject = hub.ask("context", "show", "anna", "notes")["subject"]
    (first,) = hub.ask("context", "keys")
    assert first["signs"]
    rotated = hub.ask("context", "rotate")
    assert rotated["old"] == [first["id"]]
    assert hub.ask("context", "keys") == [
        {"id": rotated["key"], "signs": True},
        {"id": first["id"], "signs": False},
    ]
    early = hub.run("context", "retire", first["id"])
    assert early.returncode == 1
    assert "--now" in early.stderr
    os.utime(hub.keys, (1, 1))
    hub.ask("context", "retire", first["id"])
    assert [key["id"] for key in hub.ask("context", "keys")] == [rotated["key"]]
    assert hub.run("context", "retire", rotated["key"], "--now").returncode == 1  # the last one
    assert hub.ask("context", "show", "anna", "notes")["subject"] == subject
    assert [event["action"] for event in hub.ask("audit", "list")].count(
        "context:keys_changed"
    ) == 2


def test_keys_are_private_and_never_shown(hub: Hub) -> None:
    hub.ask("context", "show", "anna", "notes")
    files = [hub.keys, hub.keys.with_name("subjects.keys")]
    shown = "".join(hub.run("context", word).stdout for word in ("keys", "rotate"))
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for line in file.read_text().splitlines():
            if not line.startswith("#"):
                assert line.split(":")[1] not in shown
    hub.keys.chmod(0o644)
    refused = hub.run("context", "keys")
    assert refused.returncode == 1
    assert "chmod 600" in refused.stderr
    assert hub.run("user", "list").returncode == 0  # nothing else depends on it
