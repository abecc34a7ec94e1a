"""The stream of the log: a reader that stands still makes nobody wait, and hears later what it missed."""

import contextlib
import json
import os

import pytest

from mcphub.cli.logs import _Unfailing


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", 0) as lines, os.fdopen(writer, "w", encoding="utf-8") as stream:
        os.set_blocking(reader, False)
        yield lines, stream


def fill(stream):
    """Take all the room that a pipe has."""
    os.set_blocking(stream.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(stream.fileno(), b"x" * 4096)
    os.set_blocking(stream.fileno(), True)


def say(log, text):
    log.write(f"{text}\n")
    log.flush()


def read(lines):
    found = b""
    while part := lines.read(65536):
        found += part
    return found.lstrip(b"x")


def test_lines_that_are_not_taken_are_counted_once(pipe):
    lines, stream = pipe
    log = _Unfailing(stream)
    fill(stream)
    for number in range(3):
        say(log, number)
    read(lines)
    say(log, "again")
    told, again = read(lines).splitlines()
    assert json.loads(told) == {"event": "log.lines_lost", "count": 3}
    assert again == b"again"
    say(log, "more")
    assert read(lines) == b"more\n"


def test_a_line_that_was_cut_does_not_run_into_the_next_one(pipe):
    lines, stream = pipe
    log = _Unfailing(stream)
    fill(stream)
    assert lines.read(4096) == b"x" * 4096  # room for a part of a line
    say(log, "y" * 10_000)
    say(log, "left out as a whole")
    read(lines)
    say(log, "again")
    empty, told, again = read(lines).splitlines()
    assert empty == b"" and json.loads(told)["count"] == 2
    assert again == b"again"


def test_lines_that_cannot_be_written_are_no_error(pipe):
    lines, stream = pipe
    log = _Unfailing(stream)
    lines.close()
    say(log, "nobody reads")
    say(log, "still nobody")


def test_a_file_takes_lines_of_any_length(tmp_path):
    with (tmp_path / "log").open("w", encoding="utf-8") as stream:
        say(_Unfailing(stream), "z" * 100_000)
    assert (tmp_path / "log").read_text() == "z" * 100_000 + "\n"
