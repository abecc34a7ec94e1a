"""A server that keeps its data beside its code is checked as it would run for one person: able to write."""

import os
import shutil
import sys

import pytest

from mcphub.isolation.check import Options, check
from mcphub.isolation.model import LeakClass, Verdict
from mcphub.isolation.subject import Subject
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
NOTES = """
import json, os, sys
FILE = os.path.join(os.environ.get("KEEP", os.path.dirname(os.path.abspath(__file__))), "notes.json")
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
NONE = {"type": "object", "properties": {}}
TOOLS = [{"name": "add_note", "inputSchema": TEXT}, {"name": "list_notes", "inputSchema": NONE},
         {"name": "open_note", "inputSchema": TEXT}]


def notes():
    if "SILENT" in os.environ and not os.path.exists(FILE):
        json.dump([], open(FILE, "w"))
    return json.load(open(FILE)) if os.path.exists(FILE) else []


def call(name, arguments):
    if name == "add_note":
        kept = [*notes(), arguments["text"]]
        json.dump(kept, open(FILE, "w"))
        return f"{len(kept)} notes"
    return json.dumps(notes())


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, params = message["method"], message.get("params", {})
    if method == "initialize":
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "notes", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": TOOLS}
    else:
        try:
            text, failed = call(params["name"], params["arguments"]), False
        except OSError as error:
            # as Node.js servers do: mkdir's odd word for it, and a keeper that does not look
            text = f"ENOENT: no such file or directory, mkdir '{os.path.dirname(FILE)}/data'"
            text, failed = (text if "SILENT" in os.environ else str(error)), True
            if "SILENT" in os.environ and params["name"] == "add_note":
                text, failed = "Note kept.", False
        result = {"content": [{"type": "text", "text": text}], "isError": failed}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


async def checked(tmp_path, *, source, env=None, beside_bytes=0):
    server = tmp_path / "server"
    server.mkdir()
    (server / "notes.py").write_text(NOTES)
    if beside_bytes:
        with (server / "model.bin").open("wb") as beside:
            beside.truncate(beside_bytes)
    lab = tmp_path / "lab"
    lab.mkdir()
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    subject = Subject(
        id="notes",
        version="1",
        argv=(python, str(server / "notes.py")),
        env=env or {},
        readable=(server,),
        source=server if source else None,
    )
    uid = 200_003 if os.geteuid() == 0 else os.geteuid()
    async with SandboxedSpawner(SandboxSettings(tmp_path / "run")) as spawner:
        assert spawner.level, spawner.problem
        return await check(subject, spawner, lab, uid=uid, options=Options(budget_s=120))


async def test_the_leak_of_a_server_that_writes_beside_its_code_is_found(tmp_path):
    result = await checked(tmp_path, source=True)
    assert result.verdict is Verdict.LEAK
    assert result.classes == (LeakClass.STATE,)
    assert result.recommendation["sandbox"] == {"ownPackage": True}
    assert [path.name for path in (tmp_path / "server").iterdir()] == ["notes.py"]


async def test_a_server_that_cannot_write_its_data_is_never_called_clean(tmp_path):
    result = await checked(tmp_path, source=False)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.safe_to_share is None
    assert "add_note" in result.reason


async def test_a_server_that_was_told_where_to_write_needs_no_copy(tmp_path):
    result = await checked(tmp_path, source=True, env={"KEEP": "{home}"})
    assert result.verdict is Verdict.LEAK
    assert "sandbox" not in result.recommendation


async def test_a_server_whose_lists_alone_say_that_it_cannot_write_gets_a_copy(tmp_path):
    result = await checked(tmp_path, source=True, env={"SILENT": "1"})
    assert result.verdict is Verdict.LEAK
    assert result.classes == (LeakClass.STATE,)
    assert result.recommendation["sandbox"] == {"ownPackage": True}


async def test_a_package_that_is_too_large_for_a_copy_is_checked_without_one(tmp_path):
    result = await checked(tmp_path, source=True, beside_bytes=200 * 2**20)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "could not write where it keeps its data (add_note)" in result.reason
    assert any("too large for a copy" in note and "where to write" in note for note in result.notes)
    assert "ownPackage" not in str(result.recommendation)


async def test_a_server_that_wrote_nothing_beside_its_code_is_not_said_to(tmp_path):
    env = {"KEEP": "/srv/nowhere"}
    result = await checked(tmp_path, source=True, env=env)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert not any("package's directory" in note for note in result.notes)
    assert "ownPackage" not in str(result.recommendation)
