"""The demo's verdict comes from what was observed, whatever the table looks like."""

import io

import pytest
from rich.console import Console

from mcphub.testing.demo.observation import CouldNotRun, Observation, Row, problems, reason
from mcphub.testing.demo.report import table, verdict

LEAK = Observation(True, "bob saw it")
CLEAN = Observation(False, "bob saw nothing")


def row(before: Observation | str, after: Observation | str, key: str = "token") -> Row:
    return Row(key, "Bob's call", "server@1.0.0", before, after)


def test_a_leak_before_and_none_after_stands() -> None:
    assert problems([row(LEAK, CLEAN)]) == []


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (LEAK, LEAK, "LEAK through the hub: bob saw it"),
        (CLEAN, LEAK, "LEAK through the hub"),
        ("no Node.js", LEAK, "LEAK through the hub"),
        (CLEAN, CLEAN, "no longer leaks"),
        ("no Node.js", CLEAN, "the shared server could not be tried: no Node.js"),
        (LEAK, "did not start", "the hub could not be tried: did not start"),
    ],
)
def test_everything_else_is_a_problem(
    before: Observation | str, after: Observation | str, words: str
) -> None:
    [problem] = problems([row(before, after)])
    assert words in problem


def test_nothing_run_proves_nothing() -> None:
    assert problems([]) == ["nothing was run"]


def test_one_reason_for_many_rows_is_said_once() -> None:
    rows = [row(LEAK, "did not start", "token"), row(LEAK, "did not start", "files")]
    assert problems(rows) == ["token, files: the hub could not be tried: did not start"]


def test_reasons_come_out_of_exception_groups() -> None:
    inner = CouldNotRun("git_init failed")
    wrapped = ExceptionGroup("tasks", [ExceptionGroup("tasks", [inner]), inner])
    assert reason(wrapped) == "git_init failed"


def test_the_table_shows_evidence_and_does_not_read_it_as_markup() -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(
        table([row(Observation(True, "bob got [red]x"), "gone: last [words]\nhint: none")])
    )
    console.print(verdict([row(LEAK, CLEAN)]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "LEAK: bob got [red]x" in shown
    assert "could not run: gone: last [words]" in shown
    assert "none through MCPHub" in shown
