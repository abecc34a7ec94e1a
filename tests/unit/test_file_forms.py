"""Files of made-up values have the form that servers expect; those of users are left as they are."""

import json
from configparser import ConfigParser
from netrc import netrc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from mcphub.catalog.files import inside_another, place_below_home
from mcphub.catalog.forms import shaped, whole_files
from mcphub.catalog.guide import guide_of, missing_credential_text
from mcphub.catalog.settings_file import parse_settings
from mcphub.errors import InvalidInput
from mcphub.spawn.confinement.laying import PLACE
from mcphub.spawn.laid import clear, script

SLOT = "${USER_KEY}"


def form(place: str, **env: str) -> str:
    return shaped({place: SLOT}, env)[place]


def test_a_file_with_a_form_of_its_own_keeps_it() -> None:
    files = {"a.json": '{"token": "${USER_KEY}"}', "b.json": " ${USER_KEY}\n", "c.json": "x"}
    made = shaped(files, {})
    assert (made["a.json"], made["c.json"]) == (files["a.json"], "x")
    assert json.loads(made["b.json"])["access_token"] == SLOT
    assert whole_files(files) == {"KEY": "b.json"}


def test_the_forms_are_those_that_programs_read(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(form(".netrc"))
    found = netrc(str(tmp_path / "netrc")).authenticators("api.example.com")
    assert found is not None
    assert found[2] == SLOT
    aws = ConfigParser(interpolation=None)
    aws.read_string(form(".aws/credentials"))
    assert aws["default"]["aws_secret_access_key"] == SLOT
    assert json.loads(form(".kube/config"))["users"][0]["user"]["token"] == SLOT
    named = form("x/key.json", GOOGLE_APPLICATION_CREDENTIALS="${USER_HOME}/x/key.json")
    account = json.loads(named)
    assert account["type"] == "service_account"
    assert load_pem_private_key(account["private_key"].encode(), None).key_size == 2048
    tokens = json.loads(form(".gmail-mcp/credentials.json"))
    assert tokens["refresh_token"] == tokens["installed"]["client_secret"] == SLOT
    assert form("key.pem") == SLOT


def spec_with(files: dict[str, str]):
    entry = {"command": "/bin/server", "groups": ["everyone"], "files": files}
    return parse_settings(json.dumps({"mcpServers": {"mail": entry}}), {}).specs["mail"]


def test_a_user_is_told_that_a_file_is_wanted_and_how_to_give_it() -> None:
    whole = spec_with({"~/.mail/key.json": SLOT})
    told = missing_credential_text("http://hub", "mail", ["KEY"], whole)
    assert "mcphub credential set mail KEY --from-file FILE --url http://hub" in told
    assert "The command reads the file." in told
    assert "~/.mail/key.json" in str(guide_of(whole, "KEY")["what"])
    part = spec_with({"~/.netrc": "machine a login b password ${USER_KEY}"})
    told = missing_credential_text("", "mail", ["KEY"], part)
    assert "--from-file" not in told
    assert "The command asks for the value." in told


@pytest.mark.parametrize("written", ["x", "~", "~x/y", "/home/u/x", "~//x", "~/./x", "~/x/.."])
def test_a_place_is_below_the_home(written: str) -> None:
    with pytest.raises(InvalidInput):
        place_below_home(written)
    assert place_below_home("~/.config/a b/ü.json") == ".config/a b/ü.json"


def test_a_place_below_another_is_found_in_any_order() -> None:
    assert inside_another(["a!", "a/b/c", "x", "a"]) == "a/b/c"
    assert not inside_another(["a", "ab", "a!", "b/a"])


def test_odd_names_stay_one_word_of_the_start_script() -> None:
    text = script(["a b/$(x)'.json"], "/home/u")
    assert f"'{PLACE}/a b/$(x)'\"'\"'.json'" in text


def test_what_is_cleared_is_never_behind_a_link(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for place in (home / "real", other):
        place.mkdir(parents=True)
    for path in (home / "real" / "key", home / "plain", other / "key"):
        path.write_text("x")
    (home / "link").symlink_to(f"{PLACE}/link")
    (home / "away").symlink_to(other)
    (home / "folder").mkdir()
    clear(home, ["real/key", "plain", "link", "away/key", "folder", "absent/key"])
    assert sorted(path.name for path in home.iterdir()) == ["away", "folder", "real"]
    assert not list((home / "real").iterdir())
    assert (other / "key").exists()
    (tmp_path / "linked").symlink_to(other)
    clear(tmp_path / "linked", ["key"])  # nor where the home itself is one
    assert (other / "key").exists()
