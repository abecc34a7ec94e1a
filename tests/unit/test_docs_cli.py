"""Every command of the documentation exists, and every command that exists is documented."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from mcphub.cli import connect
from mcphub.cli.commands import _app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference" / "cli.md"

# Every command takes these; the page says so once.
COMMON = {"--dir", "--json", "--help"}


def commands() -> dict[str, Any]:
    """Each command by its full name, `user add`; groups that act by themselves too."""
    return dict(_walk(typer.main.get_command(_app()), ""))


def _walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for word, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _walk(child, f"{name} {word}".strip())
    if name and (not getattr(command, "commands", {}) or command.invoke_without_command):
        yield name, command


def options(command: Any) -> set[str]:
    return {
        flag
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "hidden", False)
        for flag in [*parameter.opts, *parameter.secondary_opts]
        if flag.startswith("--")
    }


def connect_options() -> set[str]:
    parser: argparse.ArgumentParser = connect._parser()
    flags = {flag for action in parser._actions for flag in action.option_strings}
    return {flag for flag in flags if flag.startswith("--")}


def documented() -> dict[str, str]:
    """Section of the reference by command."""
    parts = re.split(r"^### `mcphub (.*?)`$", REFERENCE.read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def flags_of(name: str, command: Any) -> set[str]:
    return connect_options() if name == "connect" else options(command)


def test_the_reference_has_exactly_the_commands_that_exist() -> None:
    assert set(documented()) == set(commands())


def test_the_reference_has_exactly_the_options_that_exist() -> None:
    sections = documented()
    for name, command in commands().items():
        written = set(re.findall(r"^\| `(--[a-z-]+)", sections[name], re.M))
        assert written == flags_of(name, command) - COMMON, name


def usage(name: str, command: Any) -> str:
    """How a command is written: its options, then its arguments in order, optional ones in brackets."""
    words = ["mcphub", name]
    if flags_of(name, command) - COMMON:
        words.append("[OPTIONS]")
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper()
            bare = parameter.required or shown.startswith("[")
            words.append(shown if bare else f"[{shown}]")
    return " ".join(words)


def test_the_reference_has_the_usage_of_each_command() -> None:
    sections = documented()
    for name, command in commands().items():
        [written] = re.findall(r"```text\n(.*)\n```", sections[name])
        assert written == usage(name, command)


def shell_lines() -> list[tuple[str, str]]:
    """Lines that begin with `mcphub` in shell blocks, and `mcphub …` in running text."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        lines += re.findall(r"(?<!`)`(mcphub [a-z][^`\n]*)`(?!`)", text)
        name = str(page.relative_to(ROOT))
        found += [(name, line) for line in lines if re.match(r"mcphub [a-z]", line)]
    return found


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_every_command_line_of_the_documentation_is_one(page: str, line: str) -> None:
    words = shlex.split(line.replace("…", ""), comments=True)[1:]
    known = commands()
    longest = max((n for n in known if words[: len(n.split())] == n.split()), key=len, default=None)
    groups = {name.split()[0] for name in known}
    if longest is None:
        assert words in [[group] for group in groups], f"{page}: no such command"
        return
    given = words[: words.index("--")] if "--" in words else words
    flags = {word.partition("=")[0] for word in given if word.startswith("--")}
    assert flags <= flags_of(longest, known[longest]) | COMMON
