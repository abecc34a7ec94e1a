"""A result of a check for people, on a terminal."""

import json
from typing import Any

from mcphub.isolation.model import Finding, Result, Verdict

_WORDS = {
    Verdict.LEAK: "LEAK",
    Verdict.NO_LEAK_SEEN: "no leak seen",
    Verdict.INCONCLUSIVE: "inconclusive",
}
_SAFE = {True: "yes", False: "no", None: "not known"}


def told(result: Result) -> str:
    """Return a result for people."""
    coverage = result.coverage
    lines = [
        f"{result.id} {result.version}".rstrip() + f": {_WORDS[result.verdict]}",
        f"  {result.reason}",
        f"  safe to share: {_SAFE[result.safe_to_share]}",
        "",
    ]
    for number, finding in enumerate(result.findings, 1):
        lines += [*_finding(number, finding), ""]
    lines.append(
        f"  coverage: {len(coverage.succeeded)} of {coverage.tools} tools with success, "
        f"{coverage.calls} calls, {coverage.starts} starts, {result.seconds:.0f} s"
    )
    if coverage.skipped:
        lines.append(f"  not called (look destructive): {', '.join(coverage.skipped)}")
    lines += [f"  not done in the time: {what}" for what in coverage.undone]
    lines += [f"  note: {note}" for note in result.notes]
    if result.recommendation:
        lines.append(f"  settings: {json.dumps(dict(result.recommendation))}")
    return "\n".join(lines) + "\n"


def _finding(number: int, finding: Finding) -> list[str]:
    lines = [f"  {number}. {finding.leak.value} ({finding.severity.value}): {finding.title}"]
    for seen in finding.trace:
        what = f"{seen.call.name or seen.call.method} {_short(dict(seen.call.arguments))}".strip()
        lines.append(f"       {seen.user}: {what}")
        lines.append(f"          -> {_short(seen.text)}")
    if finding.control:
        lines.append(f"       without A: {_short(finding.control)}")
    shown = f", shown again {finding.reproduced}x" if finding.reproduced else ""
    lines.append(f"       confidence {finding.confidence:.2f}{shown}. {finding.remedy}")
    return lines


def _short(value: Any, size: int = 160) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= size else f"{text[:size]}…"
