"""Where a user's own hub is: whatever address of it was given, behind a prefix of a proxy too."""

from pathlib import Path

import pytest

from mcphub.cli.running import UserHub


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("http://127.0.0.1:8765/", "http://127.0.0.1:8765"),
        ("http://[::1]:8765/mcp", "http://[::1]:8765"),
        ("https://hub.example/mcp/github", "https://hub.example"),
        ("https://hub.example/mcp/@team/", "https://hub.example"),
        ("https://hub.example/sse", "https://hub.example"),
        ("https://all.example/hub", "https://all.example/hub"),
        ("https://all.example/hub/mcp", "https://all.example/hub"),
    ],
)
def test_the_api_is_found_from_every_address_of_the_hub(
    given: str, base: str, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("mcphub_x\n")
    key.chmod(0o600)
    assert UserHub(given, key)._base == base
