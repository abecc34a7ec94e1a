"""Members of a server are set in the settings' text, and nothing else changes."""

import pytest

from mcphub.catalog.jsonc import parse
from mcphub.catalog.patching import patch_entry
from mcphub.errors import InvalidInput, NotFound

TEXT = """{
  // mine
  "mcpServers": {
    "time": {
      "command": "uvx", // how
      "args": ["a", {"riskLevel": 1}],
      "env": {"riskLevel": "x"},
      "riskLevel": "high" /* for now */
    },
    "short": {"command": "x"},
    "empty": {},
  }
}
"""


@pytest.mark.parametrize("name", ["time", "short", "empty"])
def test_members_are_replaced_or_added_and_all_comments_stay(name):
    members = {"riskLevel": "low", "isolation": "shared"}
    made = patch_entry(TEXT, name, members)
    old, new = parse(TEXT), parse(made)
    assert new["mcpServers"].pop(name) == old["mcpServers"].pop(name) | members
    assert new == old
    for remark in ("// mine", "// how", "/* for now */"):
        assert remark in made


def test_an_unknown_server_or_a_broken_file_is_refused():
    with pytest.raises(NotFound):
        patch_entry(TEXT, "other", {"riskLevel": "low"})
    with pytest.raises(InvalidInput):
        patch_entry("{", "time", {"riskLevel": "low"})
