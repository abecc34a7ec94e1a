"""Every example of settings in the documentation is taken by the program as it stands."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from mcphub.catalog.settings_file import parse_settings
from mcphub.settings import load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OPERATOR = {"COLLECTOR_KEY": "x", "NOTES_CLIENT_SECRET": "x", "AUTH": "of a client's settings"}


def blocks(kind: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for indent, text in re.findall(
            rf"^( *)```{kind}\n(.*?)^ *```", page.read_text(), re.M | re.S
        ):
            plain = "\n".join(line.removeprefix(indent) for line in text.splitlines())
            found.append((str(page.relative_to(ROOT)), plain))
    return found


def servers() -> list[tuple[str, str]]:
    found = []
    for page, text in blocks("json"):
        if '"mcpServers"' in text:
            found.append((page, text))
        elif text.startswith('"oauth"'):
            entry = f'{{"mcpServers": {{"s": {{"url": "https://s.example/mcp", {text}}}}}}}'
            found.append((page, entry))
    return found


@pytest.mark.parametrize(("page", "text"), servers())
def test_an_example_of_servers_loads(page: str, text: str) -> None:
    # what stands for a key in the examples is no key
    text = text.replace('"kid": "…", "x": "…"', f'"kid": "k", "x": "{"A" * 43}"')
    assert parse_settings(text, OPERATOR).specs, page


@pytest.mark.parametrize(("page", "text"), blocks("toml"))
def test_an_example_of_the_hubs_settings_loads(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "mcphub.toml").write_text(text)
    assert load(tmp_path, environ=OPERATOR).origins, page


@pytest.mark.parametrize(("page", "text"), blocks("json"))
def test_every_other_example_is_json(page: str, text: str) -> None:
    assert json.loads(text if not text.startswith('"') else f"{{{text}}}"), page


def test_there_are_examples() -> None:
    assert len(servers()) >= 8
    assert len(blocks("toml")) >= 3
    assert all(tomllib.loads(text) for _, text in blocks("toml"))
