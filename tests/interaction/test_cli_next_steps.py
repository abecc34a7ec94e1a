"""What the command line says when it cannot do what was asked: exactly what, and the next step."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MCPHUB = str(Path(sys.executable).parent / "mcphub")
SERVERS = {
    "time": {"command": "cat", "groups": ["everyone"]},
    "notes": {"command": "cat", "env": {"KEY": "${USER_NOTES_KEY}"}, "groups": ["everyone"]},
}
NO_HUB = "Make one with `mcphub init`, or name its directory with --dir."


def run(directory: Path, *words: str) -> tuple[int, str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env = kept | {"MCPHUB_DIR": str(directory), "HOME": str(directory.parent)}
    done = subprocess.run(
        [MCPHUB, *words], env=env, input="", capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub that does not run, with two users."""
    directory = tmp_path_factory.mktemp("next") / "hub"
    assert run(directory, "init")[0] == 0
    for name in ("anna", "ben"):
        assert run(directory, "user", "add", name)[0] == 0
    (directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": SERVERS}))
    return directory


@pytest.mark.parametrize(
    ("command", "status", "told"),
    [
        ("group remove zzz", 1, "`mcphub group list` shows those that there are"),
        ("group leave devs anna", 1, "mcphub group list"),
        ("user import /nope", 1, "hint: Name a CSV file, or - for standard input."),
        ("key create anna --label", 2, "Try: mcphub key create --help"),
        ("requests --limit x", 2, "'--limit': it should be a valid integer\n"),
        ("requests --limit 0", 2, "'--limit': it should be greater than or equal to 1\n"),
        ("serve --port 99999", 1, "(command line): it should be less than or equal to 65535."),
        ("serve --host 0.0.0.0", 1, "set listen.public_url (https://…) or listen.allowed_hosts"),
        ("server list --dir", 2, "Try: mcphub server list --help"),
        ("credential delete notes NOTES_KEY --user anna", 1, "mcphub credential list --user anna"),
        ("credential delete notes OAUTH --user anna", 1, "mcphub credential list --user anna"),
        ("credential guide notes OTHER", 1, "hint: Run: mcphub credential guide notes"),
        ("credential guide tim", 1, "hint: Did you mean 'time'?"),
        ("server import /etc/hostname", 1, 'JSON that holds "mcpServers" or "servers"'),
        ("server import /etc", 1, "(Is a directory). Name a file in it."),
        ("vault retire zzz", 1, "hint: Run: mcphub vault keys"),
        (
            "serve --ready-file /nope/ready.json",
            1,
            "The directory of --ready-file /nope/ready.json",
        ),
    ],
)
def test_a_refusal_names_a_next_step_that_can_be_taken(
    hub: Path, command: str, status: int, told: str
) -> None:
    found, _, said = run(hub, *command.split())
    assert (found, told in said) == (status, True), said


def test_a_server_without_slots_needs_no_credentials_and_is_no_error(hub: Path) -> None:
    assert run(hub, "credential", "guide", "time")[:2] == (0, "time needs no credentials.\n")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("user list", f"hint: {NO_HUB}\n"),
        ("instances", f"hint: {NO_HUB}\n"),
        ("instances stop i_1", f"hint: {NO_HUB}\n"),
        ("instances stderr i_1", f"hint: {NO_HUB}\n"),
        ("credential guide", f"hint: {NO_HUB} As a user of somebody else's hub, give --url.\n"),
    ],
)
def test_where_there_is_no_hub_only_what_users_have_too_speaks_of_a_url(
    tmp_path: Path, command: str, told: str
) -> None:
    status, _, said = run(tmp_path / "none", *command.split())
    assert (status, said.endswith(told)) == (1, True), said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--html", "/nope/page.html", "--", "/bin/true"], "/nope/page.html cannot be written."),
        (["--manifest", "/nope.json"], "nope.json cannot be read: No such file or directory."),
        (["--sarif", "/tmp", "--", "/bin/true"], "/tmp cannot be written."),
    ],
)
def test_a_check_that_cannot_be_told_of_does_not_end_as_one_that_saw_a_leak(
    tmp_path: Path, options: list[str], told: str
) -> None:
    status, _, said = run(tmp_path / "none", "check", *options)
    assert (status, told in said, "starting" in said) == (3, True, False), said


def test_an_address_at_which_no_command_can_listen_is_wrong_usage(tmp_path: Path) -> None:
    status, _, said = run(tmp_path / "none", "check", "--url", "nonsense", "--", "/bin/true")
    assert (status, "http://127.0.0.1:{port}/mcp" in said) == (2, True)


def test_a_list_of_commands_says_of_each_a_whole_sentence(tmp_path: Path) -> None:
    for group in ("user", "server", "audit"):
        assert "..." not in run(tmp_path / "none", group, "--help")[1].partition("Commands:")[2]
