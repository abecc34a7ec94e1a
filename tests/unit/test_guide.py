"""The guide to credentials."""

import json
from importlib.resources import files

import pytest

from mcphub.catalog.guide import guide_for, guide_of, missing_credential_text, set_command
from mcphub.catalog.known import known_server
from mcphub.catalog.launchers import Requirement
from mcphub.catalog.settings_file import parse_settings


@pytest.mark.parametrize(
    ("server", "slot", "title"),
    [
        ("code", "GITHUB_PERSONAL_ACCESS_TOKEN", "GitHub"),
        ("code", "GITLAB_PERSONAL_ACCESS_TOKEN", "GitLab"),
        ("linear", "TOKEN", "Linear"),
        ("wiki", "NOTION_TOKEN", "Notion"),
        ("login", "AUTH0_TOKEN", "Auth0"),
        ("chat", "SLACK_BOT_TOKEN", "Slack"),
        ("work", "JIRA_API_TOKEN", "Atlassian (Jira, Confluence)"),
        ("work", "CONFLUENCE_PERSONAL_TOKEN", "Atlassian (Jira, Confluence)"),
        ("db", "PGPASSWORD", "PostgreSQL"),
        ("db", "POSTGRES_URL", "PostgreSQL"),
        ("db", "MARIADB_PASSWORD", "MySQL or MariaDB"),
        ("search", "BRAVE_API_KEY", "Brave Search"),
        ("maps", "GOOGLE_MAPS_API_KEY", "Google Maps Platform"),
        ("search", "TAVILY_API_KEY", "Tavily"),
        ("tasks", "TODOIST_API_KEY", "Todoist"),
        ("docs", "CONTEXT7_API_KEY", "Context7"),
        ("errors", "SENTRY_ACCESS_TOKEN", "Sentry"),
        ("ai", "OPENAI_API_KEY", "OpenAI"),
        ("ai", "ANTHROPIC_API_KEY", "Anthropic"),
    ],
)
def test_a_well_known_service_is_recognised(server: str, slot: str, title: str) -> None:
    guide = guide_for(server, slot)
    assert guide.title == title
    assert guide.what
    assert guide.scopes
    assert guide.where


def test_a_slot_with_a_name_of_its_own_is_known_by_where_it_stands() -> None:
    text = json.dumps(
        {"mcpServers": {"s": {"command": "/bin/s", "env": {"NOTION_TOKEN": "${USER_MINE}"}}}}
    )
    spec = parse_settings(text, {}).specs["s"]
    guide = guide_of(spec, "MINE")
    assert guide["title"] == "Notion"
    assert json.loads(json.dumps(guide)) == guide


def test_anything_else_gets_a_general_answer() -> None:
    guide = guide_for("weather-station", "STATION_CODE")
    assert guide.title == "weather-station"
    assert "STATION_CODE" in guide.what


def test_a_missing_credential_says_which_why_where_and_the_exact_command() -> None:
    text = missing_credential_text("https://hub.example/", "github", ["GITHUB_TOKEN"])
    for words in (
        'The server "github"',
        "your own credentials only",
        "GITHUB_TOKEN",
        "Contents: read",
        "https://github.com/settings/personal-access-tokens/new",
        "mcphub credential set github GITHUB_TOKEN --url https://hub.example\n",
    ):
        assert words in text


def test_every_missing_slot_has_its_command_and_the_list_is_bounded() -> None:
    text = missing_credential_text("http://h", "s", [f"SLOT_{n}" for n in range(50)])
    assert "50 of them are" in text
    assert text.count("mcphub credential set") == 8


def test_the_command_is_safe_to_paste() -> None:
    assert set_command("http://h/$(id)", "s", "A") == (
        "mcphub credential set s A --url 'http://h/$(id)'"
    )


def test_every_guide_is_whole() -> None:
    raw = json.loads(files("mcphub.catalog").joinpath("data/guides.json").read_text("utf-8"))
    ids = [guide["id"] for guide in raw["guides"]]
    assert len(set(ids)) == len(ids)
    for guide in raw["guides"]:
        assert all(guide[key] for key in ("title", "what", "scopes", "where", "slots", "servers"))


def test_every_slot_of_a_known_server_has_a_guide_of_its_own() -> None:
    raw = json.loads(files("mcphub.catalog").joinpath("data/known_servers.json").read_text("utf-8"))
    for ecosystem in ("npm", "pypi"):
        for package, facts in raw[ecosystem].items():
            known = known_server(Requirement(ecosystem, package))
            assert known is not None
            for slot in facts.get("slots", ()):
                assert guide_for("x", slot).title != "x", slot


def test_a_missing_credential_is_told_with_the_name_that_its_server_has_for_it() -> None:
    entry = {
        "command": "npx",
        "args": ["a-server"],
        "env": {"ODD_XOXP": "${USER_CHAT}", "SAME": "${USER_SAME}", "GITLAB_TOKEN": "${USER_MINE}"},
    }
    loaded = parse_settings(json.dumps({"mcpServers": {"chat": entry}}), {})
    text = missing_credential_text("", "chat", ["CHAT", "SAME", "MINE"], loaded.specs["chat"])
    assert "The server calls it ODD_XOXP." in text
    assert "The server calls it SAME" not in text
    assert "MINE: GitLab." in text  # known by where it stands
