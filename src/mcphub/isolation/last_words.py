"""What a subject said before it ended, or instead of getting ready: the reason and what to do. Pure."""

import re
from collections.abc import Sequence
from typing import Final

from mcphub.errors import UpstreamFailed
from mcphub.spawn.failing import usage_in, with_last_words

_WRONG: Final = re.compile(r"(?:^|[^a-z])(?:error|exception|fatal|panic)", re.IGNORECASE)


def unready(why: str, lines: Sequence[str]) -> UpstreamFailed:
    """Return the failure of a subject that does not get ready.

    Args:
        why: What it does not do, as a sentence.
        lines: What it said on stderr lately.
    """
    usage = usage_in(lines)
    if usage and not any(_WRONG.search(line) for line in lines):
        return UpstreamFailed(
            f"{why} It only told how it is called: {' / '.join(usage)}",
            hint="Add the command or the arguments that it needs at the end of the launch line.",
        )
    failure = UpstreamFailed(why)
    with_last_words(failure, lines)
    return failure
