"""What users read when a server fails: its own last words, and no directory of the host."""

import json
import os
from pathlib import Path

import anyio
import httpx2
import pytest
import structlog

from mcphub.ids import instance_id
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch
from mcphub.spawn.stderr import StderrBuffer, names_of
from mcphub.testing.hub import serving_hub

PYTHON = "/usr/bin/python3"


def said(*lines: bytes, **more: object) -> StderrBuffer:
    buffer = StderrBuffer(["hunter22"], **more)
    buffer.feed(b"".join(lines))
    return buffer


def test_the_launchers_words_are_kept_apart_until_the_server_speaks():
    found = said(
        b"mount: /mnt/r2: /home/op/x: special device hunter22 does not exist.\n",
        b"       dmesg(1) may have more information.\n",
        b"up\n",
        b"bwrap: said the server\n",
        b"  indented\n",
        programs=("mount", "bwrap"),
    )
    assert found.lines() == ["up", "bwrap: said the server", "  indented"]
    assert len(found.launcher) == 2
    assert "hunter22" not in "".join(found.launcher)


def test_a_launcher_that_stops_in_the_middle_of_a_line_tells_no_path():
    assert "/home/op" not in "".join(
        said(b"bwrap: Can't find /home/op/x", programs=("bwrap",)).lines()
    )


def test_paths_of_the_host_are_shown_as_the_server_knows_them():
    shown = names_of(
        Path("/home/op/.mcphub/homes/u_1/git"),
        "/home/u",
        [Path("/home/op/.mcphub/run"), Path("/home/op/my project/.venv"), Path("/opt/tools")],
    )
    found = said(
        b'File "/home/op/.mcphub/homes/u_1/git/a.py", /home/op/.mcphub/packages/x\n',
        b"/home/op/my project/.venv/bin/python /opt/tools /home/op/.mcphub-other /x/home/op/.mcphub\n",
        shown=shown,
    )
    assert found.lines() == [
        'File "/home/u/a.py", …/packages/x',
        "…/.venv/bin/python /opt/tools /home/op/.mcphub-other /x/home/op/.mcphub",
    ]


@pytest.mark.anyio
async def test_the_servers_own_words_hold_no_directory_of_the_hub(tmp_path):
    package = tmp_path / "hub" / "packages" / "server"
    package.mkdir(parents=True)
    (package / "main.py").write_text("raise ValueError('mine')")
    async with SandboxedSpawner(SandboxSettings(tmp_path / "hub" / "run")) as spawner:
        home = tmp_path / "hub" / "homes" / "u_16"
        argv = (PYTHON, str(package / "main.py"))
        process = await spawner.start(
            Launch(instance_id(), "u_16", 16, argv, home, readable=(package,))
        )
        with anyio.fail_after(30):
            await process.exited
        await process.stop()
    text = "\n".join(process.stderr.lines())
    assert "ValueError: mine" in text
    assert "…/server/main.py" in text
    assert str(tmp_path) not in text


@pytest.mark.anyio
@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the staging mounts are made by root")
async def test_users_learn_that_the_sandbox_failed_and_administrators_why(tmp_path):
    unshowable = tmp_path / "unshowable"
    unshowable.symlink_to("/proc/sys")  # no overlay can be made of it: the launcher fails
    servers = {
        "broken": {
            "command": PYTHON,
            "groups": ["everyone"],
            "sandbox": {"readable": [str(unshowable)]},
        }
    }
    with structlog.testing.capture_logs() as log:
        async with serving_hub(
            tmp_path / "hub", servers, {"alice": [], "bob": []}, environ=dict(os.environ)
        ) as hub:
            answers = [await listed(hub, user) for user in ("alice", "bob")]
    for answer in answers:
        assert "did not start" in answer
        for path in ("/proc/sys", str(tmp_path), "/mnt", "mount:"):
            assert path not in answer
    told = [event for event in log if event["event"] == "sandbox.not_started"]
    assert any("mount:" in event["said"] for event in told)


async def listed(hub, user):
    """Ask for the tools of the broken server; returns everything that was answered."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    async with httpx2.AsyncClient(headers=hub.headers(user), timeout=60) as http:
        answer = await http.post(
            f"{hub.url}/mcp/broken",
            headers={
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": "2026-07-28",
                "Mcp-Method": "tools/call",
                "Mcp-Name": "any",
            },
            json={
                "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": "any", "arguments": {}, "_meta": meta},
            },
        )  # fmt: skip
    return f"{answer.text} {json.dumps(dict(answer.headers))}"
