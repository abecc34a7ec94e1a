"""Writes the page and the chart of the reality check from the lines that `mcphub check` wrote.

`python -m mcphub.testing.reality_check RESULTS.jsonl MANIFEST.json DOCS` is what `make reality-check`
ends with. Facts and the remedy, in a neutral tone: most servers were written for one person, and are
right for one person.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mcphub.ids import system_clock

_COLOURS: Final = {"leak": "#c0392b", "no_leak_seen": "#218a4a", "inconclusive": "#b07400"}
_WORDS: Final = {"leak": "leak", "no_leak_seen": "no leak seen", "inconclusive": "inconclusive"}
_SAFE: Final = {True: "yes", False: "no", None: "not known"}
_HEAD: Final = """# Reality check

Which published MCP servers mix up their users when several people share one process: {count} launch
configurations, checked on {day} with `mcphub check --manifest` as described in
[isolation check](isolation-check.md). Each ran in the sandbox with two synthetic users, private
databases and stand-ins for every service. Most of these servers were written for one person and are
right for one person; the table says what happens when they are shared. The remedy for nearly all is
the same: an instance for each user, with that user's own credentials, which is what the hub does.

`make reality-check` makes this page again. A verdict speaks of exactly this version and this launch
line. {missing}

![Verdicts and leak classes](reality-check.svg)

## Summary

{summary}

## Servers

| server | package | transport | verdict | classes | safe to share | tools called | what was seen |
|---|---|---|---|---|---|---|---|
"""


def main(results: Path, manifest: Path, docs: Path) -> None:
    """Write `reality-check.md` and `reality-check.svg` into `docs`."""
    lines = [json.loads(line) for line in results.read_text().splitlines() if line.strip()]
    found = {line["id"]: line for line in lines}
    entries = json.loads(manifest.read_text())
    checked = [entry for entry in entries if entry["id"] in found]
    day = datetime.fromtimestamp(system_clock(), UTC).date().isoformat()
    left = len(entries) - len(checked)
    head = _HEAD.format(
        count=len(checked),
        day=day,
        missing=f"{left} entries of the manifest were not checked in this run." if left else "",
        summary=_summary([found[entry["id"]] for entry in checked]),
    )
    rows = [_row(entry, found[entry["id"]]) for entry in checked]
    (docs / "reality-check.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    svg = _chart([found[entry["id"]] for entry in checked])
    (docs / "reality-check.svg").write_text(svg, encoding="utf-8")


def _summary(results: list[Mapping[str, Any]]) -> str:
    verdicts = Counter(result["verdict"] for result in results)
    safe = sum(result["safe_to_share"] is True for result in results)
    seconds = sorted(result["seconds"] for result in results if result["seconds"])
    median = seconds[len(seconds) // 2] if seconds else 0
    told = ", ".join(f"{count} {_WORDS[verdict]}" for verdict, count in verdicts.most_common())
    return (
        f"{told}. {safe} of {len(results)} may be shared as they are launched. The median check took "
        f"{median:.0f} s on a busy machine with two cores."
    )


def _row(entry: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    coverage = result["coverage"]
    titles = [finding["title"] for finding in result["findings"]] or [result["reason"]]
    cells = (
        entry["id"],
        f"`{entry.get('package', '')}`",
        "HTTP" if "http" in str(entry.get("transport")) else "stdio",
        _WORDS[result["verdict"]],
        ", ".join(result["classes"]) or "none seen",
        _SAFE[result["safe_to_share"]],
        f"{len(coverage['succeeded'])} of {coverage['tools']}",
        " ".join(_plain(title) for title in titles[:3]),
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Return text of a server's without what Markdown would read."""
    return "".join(" " if char in "|\n\r`<>[]" else char for char in text)[:200]


def _chart(results: Iterable[Mapping[str, Any]]) -> str:
    """Return bars: verdicts, then classes."""
    results = list(results)
    verdicts = Counter(result["verdict"] for result in results)
    classes = Counter(leak for result in results for leak in result["classes"])
    bars = [(_WORDS[v], verdicts.get(v, 0), _COLOURS[v]) for v in _WORDS]
    bars += [(leak, count, "#5b6770") for leak, count in sorted(classes.items())]
    most = max([count for _, count, _ in bars] or [1]) or 1
    parts = []
    for number, (name, count, colour) in enumerate(bars):
        y = 12 + number * 28 + (12 if number >= len(_WORDS) else 0)
        width = round(360 * count / most)
        parts.append(
            f'<text x="150" y="{y + 14}" text-anchor="end">{name}</text>'
            f'<rect x="160" y="{y}" width="{width}" height="20" fill="{colour}"/>'
            f'<text x="{168 + width}" y="{y + 14}">{count}</text>'
        )
    height = 36 + len(bars) * 28
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 {height}" role="img" '
        'aria-label="Verdicts and leak classes" font-family="sans-serif" font-size="13" '
        f'fill="#808890">{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
