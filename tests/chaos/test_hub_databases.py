"""Which database is whose: two hubs on one, a command for another one, none at all; with two users."""

import os
import shutil
import time

import pytest
from tests.chaos.serving import HubProcess
from tests.chaos.test_hub_process import plain
from tests.unprivileged import ROOT

from mcphub.isolation.backends.postgres import private_postgres

SERVERS = {"a": plain(ROOT / "tests" / "servers")}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/shared/hub.db"
        return
    with private_postgres(tmp_path) as found:
        yield found


def hub_on(directory, url) -> HubProcess:
    """A hub whose database the environment names, as that of a service does."""
    own = {"PATH": os.environ["PATH"], "HOME": str(directory.parent)}
    return HubProcess(
        directory, env=own | {"PYTHONPATH": str(ROOT / "src"), "MCPHUB_DATABASE": url}
    )


def test_a_second_hub_on_a_database_is_refused_and_a_command_beside_it_counts_in_the_first(
    tmp_path, url
):
    first, second = hub_on(tmp_path / "one" / "hub", url), hub_on(tmp_path / "two" / "hub", url)
    (tmp_path / "two").mkdir()
    first.init(SERVERS, ["alice", "bob"])
    shutil.copytree(first.directory, second.directory)
    with first.serving():
        for user in first.keys:
            first.call(user, "a", "remember", value=f"of {user}")
        refused = second.run("serve", "--port", "0")
        assert refused.returncode == 1
        assert "Another hub uses this database" in refused.stderr
        assert "Traceback" not in refused.stderr
        for user in first.keys:
            assert first.call(user, "a", "recall") == f"of {user}"
        first.process.kill()
        first.process.wait()
    second.keys = first.keys
    with second.serving():
        assert first.run("user", "disable", "alice").returncode == 0
        # the command's own directory has no hub to tell: the one that runs sees it at its next look
        deadline = time.monotonic() + 10
        codes = {""}
        while "unauthenticated" not in codes:
            assert time.monotonic() < deadline
            error = second.answer("alice", "a", "recall").get("error", {})
            codes.add(error.get("data", {}).get("code", ""))
        assert codes <= {"", "unauthenticated", "unavailable"}, "a call that runs then may be ended"
        assert second.call("bob", "a", "recall") == "None"
        assert second.stop() == 0


CHANGES = (
    ("user", "add", "eve"),
    ("user", "disable", "bob"),
    ("server", "disable", "a"),
    ("user", "list"),
    ("init",),
)


def test_a_command_for_another_database_than_the_running_hubs_changes_nothing(tmp_path):
    """The service has MCPHUB_DATABASE, the administrator's shell has not."""
    hub = hub_on(tmp_path / "hub", f"sqlite:///{tmp_path}/elsewhere/hub.db")
    hub.init(SERVERS, ["alice", "bob"])
    shell = HubProcess(hub.directory)
    with hub.serving():
        for words in CHANGES:
            done = shell.run(*words)
            assert done.returncode == 1, words
            assert "uses another database" in done.stderr
        assert shell.run("doctor").returncode == 1
        assert not (hub.directory / "hub.db").exists()
        for user in hub.keys:
            assert hub.call(user, "a", "recall") == "None"
        assert hub.run("user", "disable", "bob").returncode == 0
        assert hub.answer("bob", "a", "recall")["error"]["data"]["code"] == "unauthenticated"
        assert hub.call("alice", "a", "recall") == "None"
        assert hub.stop() == 0


def test_without_a_database_no_command_and_no_hub_makes_an_empty_one(tmp_path):
    hub = HubProcess(tmp_path / "hub")
    hub.init(SERVERS, ["alice", "bob"])
    (hub.directory / "hub.db").rename(tmp_path / "lost.db")
    for words in (*CHANGES[:-1], ("doctor",), ("serve", "--port", "0")):
        done = hub.run(*words)
        assert done.returncode == 1, words
        assert "database is missing, or empty" in done.stdout + done.stderr
    assert not (hub.directory / "hub.db").exists()
    (tmp_path / "lost.db").rename(hub.directory / "hub.db")
    with hub.serving():
        for user in hub.keys:
            assert hub.call(user, "a", "recall") == "None"
        assert hub.stop() == 0
