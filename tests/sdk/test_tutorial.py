"""The tutorial "make your server user-aware in ten minutes" does what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from mcphub.catalog.settings_file import parse_settings
from mcphub_sdk import user_aware
from mcphub_sdk.testing import TestHub, assert_non_interference

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "tutorial" / "user-aware-server.md").read_text()
FILES = {
    block.partition("\n")[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S)
}


def run(name):
    names = {"__name__": name}
    exec(compile(FILES[name], name, "exec"), names)
    return names


def text(result):
    return "\n".join(part.text for part in result.content)


async def test_the_finished_server_works_alone_as_a_program(tmp_path):
    (tmp_path / "notes.py").write_text(FILES["notes.py"])
    program = StdioServerParameters(command=sys.executable, args=[str(tmp_path / "notes.py")])
    async with Client(program) as client:
        await client.call_tool("add", {"text": "milk"})
        assert text(await client.call_tool("add", {"text": "bread"})) == "2 notes"
        assert "milk" in text(await client.call_tool("read", {}))


async def test_the_finished_server_is_told_its_users_by_the_environment(monkeypatch):
    hub = TestHub()
    monkeypatch.setenv("MCPHUB_USER_CONTEXT", json.dumps(hub.trust))
    async with hub.client(run("notes.py")["server"]) as users:
        await users.as_user("alice").text_of("add", {"text": "hers"})
        assert "hers" in await users.as_user("alice").text_of("read")
        assert "hers" not in await users.as_user("bob").text_of("read")


def test_the_readers_test_passes():
    run("test_notes.py")["test_nobody_reads_what_another_user_wrote"]()


async def test_the_check_fails_for_the_server_as_it_was():
    hub = TestHub()
    with pytest.raises(AssertionError):
        await assert_non_interference(
            lambda: user_aware(
                run("notes_before.py")["server"], without_user="refuse", trust=hub.trust
            ),
            hub,
            writes=lambda canary: [("add", {"text": canary})],
            reads=[("read", {})],
        )


def test_the_settings_of_the_page_are_valid():
    block, _ = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    spec = parse_settings(block, {}).specs["notes"]
    assert spec.user_context is not None and spec.user_context.audience == "urn:mcphub:server:notes"
    [variable] = re.findall(r"MCPHUB_USER_CONTEXT='(.*?)'", PAGE)
    assert set(json.loads(variable)) == {"issuer", "audience", "hub"}


def test_the_commands_of_the_page_make_a_key_whose_public_half_the_hub_takes(tmp_path):
    make, _, show = re.findall(r"^(?:python|chmod) .*$", PAGE, re.M)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"

    def run(line):
        return subprocess.run(
            ["sh", "-c", line], cwd=tmp_path, env={"PATH": path}, capture_output=True, check=True
        ).stdout

    run(make)
    public = json.loads(run(show))
    private = json.loads((tmp_path / "notes.key").read_text())
    assert "d" not in public and private["x"] == public["x"]
    _, block = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    entry = json.loads(block)["mcpServers"]["notes"]
    assert set(entry["userContext"]["encryptTo"]) <= set(public)
    entry["userContext"]["encryptTo"] = public
    spec = parse_settings(json.dumps({"mcpServers": {"notes": entry}}), {}).specs["notes"]
    assert spec.user_context is not None and spec.user_context.encrypt_to == public
