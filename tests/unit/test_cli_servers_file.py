"""Adding servers to `mcp_settings.json` without touching what its author wrote."""

import json
from pathlib import Path

import pytest

from mcphub.catalog.jsonc import parse
from mcphub.catalog.merging import merge_entries
from mcphub.catalog.problems import SettingsError
from mcphub.cli.servers_file import add_entries
from mcphub.cli.starter import SERVERS
from mcphub.errors import Conflict, InvalidInput

NEW = {"new": {"command": "uvx", "args": ["mcp-server-time"], "groups": ["everyone"]}}

TEXTS = {
    "empty": '{"mcpServers": {}}',
    "one": '{"mcpServers": {"a": {"command": "x"}}}',
    "trailing comma": '{"mcpServers": {"a": {"command": "x"},\n  }\n}',
    "comment at the end": '{\n  "mcpServers": {\n    "a": {"command": "x"} // last\n  }\n}',
    "comma then comment": '{\n  "mcpServers": {\n    "a": {"command": "x"}, // last\n  }\n}',
    "only comments": '{\n  "mcpServers": {\n    // none yet\n  }\n}',
    "brace in a text": '{"mcpServers": {"a": {"command": "x}", "args": ["{", "}"]}}}',
    "another object first": '{"inputs": [{"id": "x"}], "mcpServers": {"a": {"command": "x"}}}',
    "the root as a key below": '{"mcpServers": {"mcpservers": {"env": {"mcpServers": "x"}}}}',
    "starter": SERVERS,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_an_entry_is_added_and_everything_else_stays(text: str) -> None:
    after = merge_entries(text, NEW)
    old, new = parse(text), parse(after)
    assert new["mcpServers"].pop("new") == NEW["new"]
    assert new == old
    for comment in ("// last", "// none yet", "// Every user sees"):
        assert (comment in after) == (comment in text)


def test_several_entries_are_added_at_once() -> None:
    entries = {f"s{number}": {"command": "x"} for number in range(3)}
    assert list(parse(merge_entries('{"mcpServers": {}}', entries))["mcpServers"]) == list(entries)


def test_a_file_without_servers_object_is_refused() -> None:
    with pytest.raises(InvalidInput, match="mcpServers"):
        merge_entries('{"servers": []}', NEW)


def test_a_name_that_is_taken_and_an_entry_that_is_wrong_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mcp_settings.json"
    path.write_text(json.dumps({"mcpServers": {"a": {"command": "x"}}}))
    before = path.read_bytes()
    with pytest.raises(Conflict):
        add_entries(path, {"a": {"command": "y"}}, {})
    with pytest.raises(SettingsError):
        add_entries(path, {"b": {"command": "y", "riskLevel": "enormous"}}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "mcp_settings.json"
    path.write_text('{"mcpServers": {}}')
    path.chmod(0o600)
    add_entries(path, NEW, {})
    assert path.stat().st_mode & 0o777 == 0o600
