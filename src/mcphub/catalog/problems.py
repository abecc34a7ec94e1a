"""What is wrong with a settings file, all of it at once, each with its place and a way out.

Not here: warnings (they do not stop a file from loading). Messages name keys and places, never the
text of a value: values hold secrets.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mcphub.errors import InvalidInput

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: Name of the file, without its directory.
        path: JSON path, such as `$.mcpServers.github.env.TOKEN`; a syntax error has `$`.
        message: One sentence.
        hint: What to write instead.
    """

    file: str
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: {self.message} {self.hint}".rstrip()


class SettingsError(InvalidInput):
    """A settings file that cannot be used.

    Attributes:
        problems: Everything that is wrong with it, in the order of the file.
    """

    code = "invalid_settings"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{count} {noun} in the settings:\n{lines}")


def json_path(*parts: str | int) -> str:
    """Return `$.a.b[2]` for the parts; a key with odd characters is quoted."""
    path = "$"
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif _PLAIN_KEY.match(part):
            path += f".{part}"
        else:
            shown = part if part.isprintable() else ascii(part)[1:-1]
            path += f'["{shown[:80]}"]'
    return path
