"""`Subject`: what is checked, as a launch line; made by the command line and the manifest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mcphub.isolation.territory import INSIDE

_ABSOLUTE = re.compile(r"(?:^|[=:,\s])(/home/u(?:/[^\s,:;]*)?)")


@dataclass(frozen=True, slots=True)
class Subject:
    """A server and how it is started, with placeholders.

    Attributes:
        id: Name in reports.
        version: Exact version of what runs.
        argv: Program (absolute) and arguments; `{port}`, `{home}`, `{lab}` are filled in.
        env: Environment, likewise. Values are replaced where they are credentials.
        files: Place below the home -> text of a file that it needs there; credentials are replaced.
        readable: Host paths that it needs.
        url: Where it listens once started, `http://127.0.0.1:{port}/mcp`; empty for stdio.
        package: Name of its package, for the recommendation; or empty.
        source: Directory with the package's own files, or None.
        own_package: It may write there, into a copy of its own.
        older_sdk: It is installed with an SDK of before version 2 already.
        memory_mb: Memory limit.
        notes: What was assumed, for the report.
    """

    id: str
    version: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()
    url: str = ""
    package: str = ""
    source: Path | None = None
    own_package: bool = False
    older_sdk: bool = False
    memory_mb: int = 1024
    notes: tuple[str, ...] = ()

    @property
    def is_http(self) -> bool:
        """Whether it listens instead of reading its stdin."""
        return bool(self.url)


def filled(text: str, port: int) -> str:
    """Fill the placeholders of a launch line."""
    lab = PurePosixPath(INSIDE, "lab")
    for name, value in (
        ("{port}", str(port)),
        ("{home}", str(INSIDE)),
        ("{lab}", str(lab)),
        ("${USER_HOME}", str(INSIDE)),
        ("${USER_ID}", "shared"),
        ("${USER_NAME}", "shared"),
    ):
        text = text.replace(name, value)
    return text


def mentioned_paths(texts: list[str]) -> list[str]:
    """Return the absolute paths below the home that a launch line mentions."""
    return [found for text in texts for found in _ABSOLUTE.findall(text)]
