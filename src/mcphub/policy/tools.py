"""Which tools of a server may be seen and called: `tools.allow` and `tools.deny`.

Patterns are shell patterns (`get_*`, `repo_[ab]?`), case-sensitive, matched against the tool's own
name. Deny wins; an empty allow list allows all.
"""

import re
from dataclasses import dataclass, field
from fnmatch import translate
from functools import lru_cache

from mcphub.policy.model import Step

_NOTHING = re.compile(r"(?!)")


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    if not patterns:
        return _NOTHING
    return re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns))


@dataclass(frozen=True, slots=True)
class ToolRule:
    """One server's compiled tool filter; equal patterns make equal rules.

    Attributes:
        allow: Patterns of what may be used; empty means everything.
        deny: Patterns of what may not; stronger than `allow`.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    _allow: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _deny: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_allow", _any_of(self.allow))
        object.__setattr__(self, "_deny", _any_of(self.deny))

    def __call__(self, tool: str) -> bool:
        """Return whether the tool may be seen and called."""
        if self.deny and self._deny.match(tool) is not None:
            return False
        return not self.allow or self._allow.match(tool) is not None

    def explain(self, tool: str) -> Step:
        """Return the line of a trace that says why `tool` is shown or hidden."""
        for pattern in self.deny:
            if ToolRule(deny=(pattern,))(tool) is False:
                return Step("tools.deny", f'"{tool}" matches "{pattern}"', "hidden")
        if not self.allow:
            return Step("tools.allow", "the list is empty: every tool is allowed", "allowed")
        for pattern in self.allow:
            if ToolRule(allow=(pattern,))(tool):
                return Step("tools.allow", f'"{tool}" matches "{pattern}"', "allowed")
        return Step("tools.allow", f'"{tool}" matches no pattern of the list', "hidden")


@lru_cache(maxsize=4096)
def tool_rule(allow: tuple[str, ...], deny: tuple[str, ...]) -> ToolRule:
    """Return the compiled rule for these patterns, compiled once per process."""
    return ToolRule(allow, deny)
