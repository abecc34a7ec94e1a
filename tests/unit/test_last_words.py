"""What a caller is told of a server's last words."""

import pytest

from mcphub.errors import UpstreamFailed
from mcphub.spawn.failing import with_last_words

NODE = [
    "node:fs:1386",
    "  const result = binding.mkdir(",
    "                         ^",
    "Error: EROFS: read-only file system, mkdir '/x'",
    "    at Object.mkdirSync (node:fs:1386:26) {",
    "  errno: -30,",
    "  code: 'EROFS',",
    "}",
    "Node.js v20.20.2",
]
USAGE = ["Error: no context is set", "Usage:", *(f"  --flag-{n} string   A flag" for n in range(9))]
PYTHON = ["Traceback (most recent call last):", *["  frame"] * 20, "ValueError: A_DIR is required"]
SLACK = [
    '{"level":"fatal","message":"Check your tokens","stack":"' + "z" * 900 + '"}',
    "node:child_process:930",
    "    throw err;",
    "    ^",
    "Error: Command failed: bin --transport stdio",
    "    at Object.execFileSync (node:child_process:927:15) {",
    "  status: 1,",
    "  output: [ null, null, null ],",
    "}",
    "Node.js v20.20.2",
]
PLAIN = [f"line {n}" for n in range(9)]


@pytest.mark.parametrize(
    ("lines", "told", "untold"),
    [
        (NODE, "Error: EROFS: read-only file system, mkdir '/x'", "Node.js v"),
        (USAGE, "Error: no context is set", "--flag-1"),
        (PYTHON, "frame / ValueError: A_DIR is required", "Traceback"),
        (PLAIN, "line 4 / line 5 / line 6 / line 7 / line 8", "line 3"),
        (["y" * 500, *["x" * 199] * 3], " / ".join(["x" * 199] * 2), "y"),
        (SLACK, "Error: Command failed: bin --transport stdio", "status: 1"),
        (
            SLACK[:1],
            '{"level":"fatal","message":"Check your tokens","stack":"' + "z" * 143 + "…",
            "z…z",
        ),
    ],
)
def test_the_line_that_names_the_error_is_told(lines: list[str], told: str, untold: str) -> None:
    said = with_last_words(UpstreamFailed("Ended."), lines).message
    assert said.startswith("Ended. Its last words: ") and said.endswith(told)
    assert untold not in said.removeprefix("Ended. Its last words:").replace("context", "")


def test_what_a_program_inside_said_before_the_error_is_told_too() -> None:
    assert "Check your tokens" in with_last_words(UpstreamFailed("Ended."), SLACK).message


def test_a_server_that_said_nothing_is_not_quoted() -> None:
    assert with_last_words(UpstreamFailed("Ended."), ["}", "  "]).message == "Ended."


def test_a_usage_text_alone_is_told_from_its_start():
    lines = ["Sessions for clients", "", "Usage: console <COMMAND>", "", "Commands:"]
    lines += ["  serve   Run the server", *["  other"] * 20, "Examples:", "  console sandbox"]
    said = with_last_words(UpstreamFailed("Ended."), lines).message
    assert said.startswith(
        "Ended. Its last words: Usage: console <COMMAND> / Commands: / serve Run"
    )
    assert "Examples" not in said


def test_an_error_after_or_before_a_usage_text_is_told_for_it():
    usage = ["Usage: console <COMMAND>", *["  other"] * 20]
    for lines in (["error: no such command", *usage], [*usage, "error: no such command"]):
        said = with_last_words(UpstreamFailed("Ended."), lines).message
        assert "error: no such command" in said
