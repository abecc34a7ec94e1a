"""What a caller is told of a server's last words."""

import pytest

from mcphub.errors import UpstreamFailed
from mcphub.spawn.failing import with_last_words

NODE = [
    "node:fs:1386",
    "  const result = binding.mkdir(",
    "                         ^",
    "Error: EROFS: read-only file system, mkdir '/x'",
    "    at Object.mkdirSync (node:fs:1386:26)",
    "  errno: -30,",
    "  code: 'EROFS',",
    "}",
    "Node.js v20.20.2",
]
USAGE = ["Error: no context is set", "Usage:", *(f"  --flag-{n} string   A flag" for n in range(9))]
PYTHON = ["Traceback (most recent call last):", *["  frame"] * 20, "ValueError: A_DIR is required"]
PLAIN = [f"line {n}" for n in range(9)]


@pytest.mark.parametrize(
    ("lines", "told", "untold"),
    [
        (NODE, "Error: EROFS: read-only file system, mkdir '/x'", "Node.js v"),
        (USAGE, "Error: no context is set", "--flag-1"),
        (PYTHON, "frame / ValueError: A_DIR is required", "Traceback"),
        (PLAIN, "line 4 / line 5 / line 6 / line 7 / line 8", "line 3"),
        (["x" * 500, "y" * 500], "y" * 500, "x"),
    ],
)
def test_the_line_that_names_the_error_is_told(lines: list[str], told: str, untold: str) -> None:
    said = with_last_words(UpstreamFailed("Ended."), lines).message
    assert said.startswith("Ended. Its last words: ") and said.endswith(told)
    assert untold not in said.removeprefix("Ended. Its last words:").replace("context", "")


def test_a_server_that_said_nothing_is_not_quoted() -> None:
    assert with_last_words(UpstreamFailed("Ended."), ["}", "  "]).message == "Ended."
