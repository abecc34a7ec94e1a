"""The documentation says what the code does: links, settings, errors, rules, decisions."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from mcphub import errors, settings
from mcphub.audit.records import ALIKE, OWN
from mcphub.catalog.entries import SandboxEntry, ServerEntry, ToolsEntry, keys_of
from mcphub.policy import decide

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference"

_FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Anchors of the page's headings, as code forges make them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return set(plain)


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def section(page: Path, title: str) -> str:
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    assert found is not None, title
    return found.group(1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    ways = [ROOT / "README.md"]
    while ways:
        page = ways.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        ways += [target for target in targets if target.suffix == ".md"]
    assert set(PAGES) <= seen


def hub_settings(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        if field.exclude or name == "dir":
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from hub_settings(kind, f"{name}.")
        else:
            yield at + name, field.default


def shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return "[]" if not default else str(list(default))
    return f'"{default}"' if isinstance(default, str) else str(default)


def test_the_settings_reference_has_every_setting_of_the_hub_with_its_default() -> None:
    page = section(REFERENCE / "settings.md", "## The hub: `mcphub.toml`")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| `([^`]*)` \|", page, re.M))
    assert rows == {name: shown(default) for name, default in hub_settings(settings.HubSettings)}


def test_the_error_reference_has_every_error_code() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {kind.code for kind in classes if issubclass(kind, errors.HubError)} - {"error"}
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", (REFERENCE / "errors.md").read_text(), re.M))
    assert codes == rows


def test_the_policy_reference_has_every_rule_that_can_refuse_or_allow() -> None:
    tree = ast.parse(Path(str(decide.__file__)).read_text())
    rules: set[str] = set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in {"refuse", "_Row"} and call.args and isinstance(call.args[0], ast.Constant):
            rules.add(str(call.args[0].value))
    page = (REFERENCE / "policy.md").read_text()
    assert rules
    assert {rule for rule in rules if f"| `{rule}` |" not in page} == set()


def test_the_list_of_decisions_is_complete() -> None:
    folder = ROOT / "docs" / "decisions"
    written = {page.name for page in folder.glob("[0-9]*.md")}
    listed = re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    assert written == set(listed)
    assert len(listed) == len(written)
    numbers = [name[:4] for name in sorted(written)]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


@cache
def known_tests() -> set[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return {name for f in files for name in re.findall(r"def (test_\w+)", f.read_text())}


@pytest.mark.parametrize("number", range(1, 25))
def test_the_security_boundary_says_for_every_rule_what_guards_it(number: int) -> None:
    page = (ROOT / "docs" / "explanation" / "security-boundary.md").read_text()
    row = re.search(rf"^\| R{number} \| (.+) \| (.+) \|$", page, re.M)
    assert row is not None
    guards = set(re.findall(r"`(test_\w+)`", row.group(2)))
    assert guards or row.group(2).startswith(("not built", "no test yet"))
    assert guards <= known_tests()


@pytest.mark.parametrize("shape", [ServerEntry, ToolsEntry, SandboxEntry])
def test_the_settings_reference_has_every_key_of_a_server(shape: type[BaseModel]) -> None:
    rows = re.findall(
        r"^\| (`.*?`) \|",
        section(REFERENCE / "settings.md", "## The servers: `mcp_settings.json`"),
        re.M,
    )
    written = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert set(keys_of(shape)) <= written


def test_the_record_reference_has_every_field_of_a_request_record() -> None:
    page = (REFERENCE / "request-records.md").read_text().partition("| outcome |")[0]
    rows = re.findall(r"^\| (`.*?`) \|", page, re.M)
    written = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert {*OWN, *ALIKE} == written
