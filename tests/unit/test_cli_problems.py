"""What the command line says of errors of the database and the system."""

import errno
import os
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from mcphub.cli.problems import explained
from mcphub.errors import HubError, NotFound, Unavailable


def caused(error: HubError, cause: BaseException) -> HubError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.EROFS, errno.ENOENT])
def test_an_error_of_the_system_names_the_path_and_the_next_step(number: int) -> None:
    found = explained(OSError(number, os.strerror(number), "/srv/hub/mcphub.toml"))
    assert found.message == f"/srv/hub/mcphub.toml: {os.strerror(number)}."
    assert found.hint and "bug" not in found.hint


def test_a_machine_without_a_directory_for_temporary_files_is_told_so() -> None:
    found = explained(
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")
    )
    assert found.message == "No usable temporary directory found in ['/tmp']."
    assert "TMPDIR" in found.hint


def test_a_full_disk_under_the_database_is_no_bug() -> None:
    raw = sqlite3.OperationalError("database or disk is full")
    found = explained(OperationalError("COMMIT", {}, raw))
    assert found.message == "Database or disk is full."
    assert found.hint.startswith("Make room")


def test_the_cause_of_an_unusable_database_is_told() -> None:
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    found = explained(caused(Unavailable("It cannot be used.", hint="Look."), refused))
    assert found.message == "It cannot be used. Connection refused."
    assert "PostgreSQL" in found.hint
    assert found.code == "unavailable"


def test_what_the_hub_says_by_itself_stays_as_it_is() -> None:
    error = NotFound("There is no such thing.", hint="List them.")
    assert explained(error) is error
    assert explained(caused(error, ValueError("of no interest"))) is error
    told = Unavailable("It cannot listen: Permission denied.", hint="Use --port.")
    assert explained(caused(told, PermissionError(errno.EACCES, "Permission denied"))) is told


def test_anything_else_is_a_bug_and_one_line() -> None:
    found = explained(RuntimeError("first\nsecond"))
    assert found.message == "RuntimeError: first"
    assert "bug" in found.hint
