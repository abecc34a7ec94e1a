"""The reference names every error code, metric, endpoint and variable of the environment, and no other."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SOURCE = "\n".join(
    path.read_text()
    for part in ("src/mcphub", "sdk/src/mcphub_sdk")
    for path in sorted((ROOT / part).rglob("*.py"))
    if "testing" not in path.parts
)
PAGES = "\n".join(
    path.read_text() for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
)
ENDPOINTS = (REFERENCE / "endpoints.md").read_text()


def test_every_error_code_is_in_the_reference() -> None:
    codes = set(re.findall(r'\bcode(?:: \w+)? ?= ?"([a-z_]+)"', SOURCE)) - {"error"}
    assert {"conflict", "native_build", "not_running"} <= codes
    page = (REFERENCE / "errors.md").read_text()
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_the_reference_has_exactly_the_metrics_that_there_are() -> None:
    found = re.findall(r"(?:[\"']|# TYPE )(mcphub_\w+|process_\w+_total)\b", SOURCE)
    series = {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}
    made = {name for name in series if name not in {"mcphub_sdk", "mcphub_user"}}
    written = set(
        re.findall(r"`(mcphub_\w+|process_\w+)", ENDPOINTS.partition("For monitoring")[2])
    )
    assert written == made


def test_the_reference_has_every_endpoint() -> None:
    routes = re.findall(r'Route\(\s*"(/[^"]*)"', SOURCE)
    assert {"/healthz", "/oauth/callback", "/metrics", "/me/servers"} <= set(routes)
    assert {path for path in routes if f"{path}`" not in ENDPOINTS} == set()
    for constant in ("CONTEXT_PATH", "DOCUMENT"):
        [path] = re.findall(rf'^{constant}(?:: Final)? = "(/[^"]*)"', SOURCE, re.M)
        assert f"`{path}`" in ENDPOINTS


def test_every_variable_of_the_environment_is_documented() -> None:
    read = set(re.findall(r"\bMCPHUB_[A-Z_]+\b", SOURCE)) - {"MCPHUB_HUB", "MCPHUB_INSTANCE"}
    assert {"MCPHUB_DIR", "MCPHUB_KEY", "MCPHUB_DEBUG", "MCPHUB_USER_CONTEXT"} <= read
    assert {name for name in read if name not in PAGES} == set()


def test_the_layout_names_every_module_and_package() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    layout = page.partition("## Layout")[2].partition("## One request")[0]
    parts = [path for path in (ROOT / "src" / "mcphub").iterdir() if path.name[0] not in "._"]
    wanted = {f"{path.name}/" if path.is_dir() else path.name for path in parts}
    assert {name for name in wanted if name not in layout and not name.startswith("__")} == set()
