"""What a subject said before it ended, or instead of getting ready: the reason and what to do. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.spawn.failing import with_last_words

_USAGE: Final = re.compile(r"\W{0,4}usage\b", re.IGNORECASE)
_WRONG: Final = re.compile(r"(?:^|[^a-z])(?:error|exception|fatal|panic)", re.IGNORECASE)
_LINES: Final = 10
_LONGEST: Final = 600


def unready(why: str, lines: Sequence[str]) -> UpstreamFailed:
    """Return the failure of a subject that does not get ready.

    Args:
        why: What it does not do, as a sentence.
        lines: What it said on stderr lately.
    """
    usage = _usage(lines)
    if usage and not any(_WRONG.search(line) for line in lines):
        return UpstreamFailed(
            f"{why} It only told how it is called: {usage}",
            hint="Add the command or the arguments that it needs at the end of the launch line.",
        )
    failure = UpstreamFailed(why)
    with_last_words(failure, lines)
    return failure


def _usage(lines: Sequence[str]) -> str:
    """Return the first lines of a usage text, or an empty text."""
    start = next((index for index, line in enumerate(lines) if _USAGE.match(line.strip())), None)
    if start is None:
        return ""
    told = [" ".join(line.split()) for line in lines[start:] if line.strip()][:_LINES]
    return " / ".join(told)[:_LONGEST]
