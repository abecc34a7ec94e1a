"""Writes the page and the chart of the reality check from the lines that `mcphub check` wrote.

`python -m mcphub.testing.reality_check SHARED.jsonl BEHIND.jsonl MANIFEST.json DOCS` is what
`make reality-check` ends with. Facts and the remedy, in a neutral tone: most servers were written for
one person, and are right for one person.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from mcphub.isolation.model import LeakClass
from mcphub.testing.scores import lines_of, scored, told

_WORDS: Final = {"leak": "leak", "no_leak_seen": "no leak seen", "inconclusive": "inconclusive"}
_SAFE: Final = {True: "yes", False: "no", None: "not known"}
_NOT_TRIED: Final = "not tried"
_HEAD: Final = """# Reality check

Which published MCP servers mix up their users when several people share one process, and what remains
behind the hub: {count} launch configurations, checked {days} with `mcphub check --manifest` as the
[isolation check](isolation-check.md) describes. Each ran in the sandbox with two synthetic users, private
databases and stand-ins for every service; no real service or credential was used.

Most of these servers were written for one person and are right for one person. The table says what
happens when they are shared, and is no list of defects. The remedy for nearly all is the same: an
instance for each user, with that user's own credentials, which is what the hub does by itself for
every server that it knows nothing about. A verdict speaks of exactly this version and this launch
line, and "no leak seen" of what was tried: [how a leak is found](../explanation/finding-leaks.md).

`make reality-check` makes this page again; `make reality-check ARGS=--resume` goes on with a run that
was ended.{missing}

![Leak classes of each server, shared and behind the hub](reality-check.svg)

## Summary

{summary}

## Servers

*Risk* is the `riskLevel` that the check recommends. *Behind the hub* are the same probes by two users
of a hub, each with an instance of its own.

| server | package | transport | risk | safe to share | leaks when shared | behind the hub | tools called | day |
|---|---|---|---|---|---|---|---|---|
"""
_LABELS: Final = """
## Against labels

The manifest's entries were also tried by hand; this is how the check compares with that, by class. A
difference may be an error of either.

```text
{scores}
```
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One server of the study.

    Attributes:
        entry: Of the manifest.
        shared: Its result with one process for both users.
        behind: Its result behind the hub, or None.
    """

    entry: Mapping[str, Any]
    shared: Mapping[str, Any]
    behind: Mapping[str, Any] | None

    @property
    def tried_behind(self) -> Mapping[str, Any] | None:
        """Its result behind the hub, when anything was called there."""
        behind = self.behind
        return behind if behind is not None and behind["coverage"]["calls"] else None


def main(shared: Path, behind: Path, manifest: Path, docs: Path) -> None:
    """Write `reality-check.md` and `reality-check.svg` into `docs`."""
    found = {line["id"]: line for line in lines_of(shared)}
    hub = {line["id"]: line for line in lines_of(behind)} if behind.exists() else {}
    entries = json.loads(manifest.read_text())
    entries = entries["servers"] if isinstance(entries, dict) else entries
    rows = [Row(e, found[e["id"]], hub.get(e["id"])) for e in entries if e["id"] in found]
    (docs / "reality-check.md").write_text(_page(rows, len(entries)), encoding="utf-8")
    (docs / "reality-check.svg").write_text(chart(rows), encoding="utf-8")


def _page(rows: Sequence[Row], entries: int) -> str:
    days = sorted({row.shared["day"] for row in rows if row.shared.get("day")})
    left = entries - len(rows)
    head = _HEAD.format(
        count=len(rows),
        days=f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}" if days else "",
        missing=f" {left} entries of the manifest were not checked in this run." if left else "",
        summary=_summary(rows),
    )
    table = "\n".join(_row(row) for row in rows)
    evidence = "\n\n".join(_evidence(row) for row in rows)
    scores = told(scored([row.shared for row in rows], [row.entry for row in rows]))
    return (
        f"{head}{table}\n\n## Evidence and remedies\n\n{evidence}\n{_LABELS.format(scores=scores)}"
    )


def _summary(rows: Sequence[Row]) -> str:
    verdicts = Counter(row.shared["verdict"] for row in rows)
    safe = sum(row.shared["safe_to_share"] is True for row in rows)
    unknown = sum(row.shared["safe_to_share"] is None for row in rows)
    unsure = f", and of {unknown} it is not known" if unknown else ""
    seconds = sorted(row.shared["seconds"] for row in rows if row.shared["seconds"])
    median = seconds[len(seconds) // 2] if seconds else 0
    most = seconds[max(0, -(-len(seconds) * 95 // 100) - 1)] if seconds else 0
    tried = [row.tried_behind for row in rows if row.tried_behind is not None]
    leaks = sum(result["verdict"] == "leak" for result in tried)
    return (
        f"- Shared: {', '.join(f'{n} {_WORDS[verdict]}' for verdict, n in verdicts.most_common())}. "
        f"{safe} of {len(rows)} may be shared as they are launched{unsure}.\n"
        f"- Behind the hub: {len(tried)} could be tried, {leaks} with a leak. The others need an "
        "account at a database for each user, or speak HTTP only, which the hub does not start.\n"
        f"- A check took {median:.0f} s in the median and {most:.0f} s at the 95th percentile."
    )


def _row(row: Row) -> str:
    shared, behind = row.shared, row.tried_behind
    coverage = shared["coverage"]
    hub = _NOT_TRIED
    if behind is not None:
        hub = ", ".join(behind["classes"]) or _WORDS[behind["verdict"]]
    cells = (
        f"[{row.entry['id']}](#{row.entry['id']})",
        f"`{row.entry.get('package', '')}`",
        "stdio" if row.entry.get("transport", "stdio") == "stdio" else "HTTP",
        shared["recommendation"].get("riskLevel", ""),
        _SAFE[shared["safe_to_share"]],
        ", ".join(shared["classes"]) or _WORDS[shared["verdict"]],
        hub,
        f"{len(coverage['succeeded'])} of {coverage['tools']}",
        shared.get("day", ""),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _evidence(row: Row) -> str:
    """Return what was seen of one server, each finding with its remedy."""
    shared = row.shared
    lines = [
        f"### {row.entry['id']}",
        "",
        f"Version {_plain(shared['version'])[:60] or 'unknown'}.",
    ]
    if not shared["findings"]:
        lines[-1] += f" {_plain(shared['reason'], 300)}"
    for finding in shared["findings"]:
        again = ", shown again in a fresh process" if finding["reproduced"] else ""
        lines += [
            f"- **{finding['class']}** ({finding['severity']}{again}): {_plain(finding['title'], 300)} "
            f"*Remedy:* {_plain(finding['remedy'], 300)}"
        ]
    if shared["findings"] and shared["safe_to_share"] is None:
        lines.append(f"- {_plain(shared['reason'], 500)}")
    lines += [f"- {_plain(note, 300)}" for note in shared["notes"]]
    behind = row.behind
    if behind is not None:
        told = _plain(
            behind["findings"][0]["title"] if behind["findings"] else behind["reason"], 300
        )
        lines.append(f"- Behind the hub: {told}")
    if len(lines) > 3:
        lines.insert(3, "")
    return "\n".join(lines)


def _plain(text: str, size: int = 200) -> str:
    """Return text of a server's without what Markdown would read."""
    text = "".join(" " if char in "|\n\r`<>[]\\" else char for char in text)
    text = text if len(text) <= size else f"{text[:size]}…"
    return text.replace("_", "\\_").replace("*", "\\*")


_LEAK: Final = "#c0392b"
_CLEAN: Final = "#218a4a"
_OPEN: Final = "#b07400"
_TEXT: Final = "#808890"


def chart(rows: Sequence[Row]) -> str:
    """Return a grid: a row for each server, a column for each class and one for the hub."""
    classes = [leak.value for leak in LeakClass if any(leak in r.shared["classes"] for r in rows)]
    left, step = 150, 22
    parts: list[str] = []
    for column, name in enumerate([*classes, "behind the hub"]):
        x = left + 16 + column * 40
        parts.append(f'<text transform="translate({x + 4},86) rotate(-45)">{escape(name)}</text>')
    for line, row in enumerate(rows):
        y = 104 + line * step
        name = escape(str(row.entry["id"]))
        parts.append(f'<text x="{left}" y="{y + 4}" text-anchor="end">{name}</text>')
        for column, leak in enumerate(classes):
            parts.append(_mark(left + 16 + column * 40, y, _colour(row.shared, leak)))
        hub = row.tried_behind
        x = left + 16 + len(classes) * 40
        parts.append(_mark(x, y, _colour(hub, "") if hub is not None else ""))
    width, height = left + 120 + len(classes) * 40, 150 + len(rows) * step
    legend = "".join(
        f'<circle cx="{20 + place * 150}" cy="{height - 16}" r="6" fill="{colour}"/>'
        f'<text x="{32 + place * 150}" y="{height - 12}">{word}</text>'
        for place, (word, colour) in enumerate(
            (("leak", _LEAK), ("no leak seen", _CLEAN), ("inconclusive", _OPEN))
        )
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(width, 480)} {height}" role="img" '
        'aria-label="Leak classes of each server, shared and behind the hub" '
        f'font-family="sans-serif" font-size="12" fill="{_TEXT}">{"".join(parts)}{legend}</svg>\n'
    )


def _colour(result: Mapping[str, Any], leak: str) -> str:
    """Return the colour of one class of a result, or of the result as a whole (empty class)."""
    if leak in result["classes"] or (not leak and result["verdict"] == "leak"):
        return _LEAK
    return _OPEN if result["verdict"] == "inconclusive" else _CLEAN


def _mark(x: int, y: int, colour: str) -> str:
    """Return a mark: large for a leak, small for none, a dash for what was not tried."""
    if not colour:
        return f'<path d="M{x - 4} {y}h8" stroke="{_TEXT}"/>'
    return f'<circle cx="{x}" cy="{y}" r="{7 if colour == _LEAK else 3}" fill="{colour}"/>'


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
