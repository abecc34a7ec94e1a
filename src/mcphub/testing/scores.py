"""How good a run of the isolation check is against labels: precision and recall, class by class.

`python -m mcphub.testing.scores RESULTS.jsonl LABELS.json` prints the table and ends with status 1 when
a server with a labelled leak was called clean. Labels are `leak_classes` and `safe_to_share` of a
manifest's entries; entries without labels, and labels without a result, do not count.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mcphub.isolation.model import LeakClass

_SAME: Final[Mapping[str, str]] = {"rate-limit": LeakClass.HISTORY_CACHE.value}
_UNSAFE: Final = "unsafe to share"


@dataclass(slots=True)
class Score:
    """How often something was said rightly, wrongly, and missed; with the ids of the wrong ones."""

    right: int
    wrong: list[str]
    missed: list[str]

    @property
    def precision(self) -> float:
        """Share of what was said that is right; 1 when nothing was said."""
        said = self.right + len(self.wrong)
        return self.right / said if said else 1.0

    @property
    def recall(self) -> float:
        """Share of what is right that was said; 1 when there is nothing."""
        due = self.right + len(self.missed)
        return self.right / due if due else 1.0


@dataclass(slots=True)
class Scores:
    """All scores of a run.

    Attributes:
        classes: Class -> its score, of classes that were labelled or said.
        unsafe: Of the decision that users must not share a process. Not knowing it misses it.
        called_clean: Ids with a labelled leak whose verdict is `no_leak_seen`.
        unknown: Ids of which it is not known whether they may be shared.
        servers: Number of servers that count.
    """

    classes: dict[str, Score]
    unsafe: Score
    called_clean: list[str]
    unknown: list[str]
    servers: int


def scored(results: Iterable[Mapping[str, Any]], labels: Iterable[Mapping[str, Any]]) -> Scores:
    """Compare results with labels."""
    known = {entry["id"]: entry for entry in labels if "leak_classes" in entry}
    pairs = [(known[result["id"]], result) for result in results if result["id"] in known]
    due = {entry["id"]: _classes(entry) for entry, _ in pairs}
    said = {result["id"]: set(result["classes"]) for _, result in pairs}
    named = sorted(set().union(*due.values(), *said.values()))
    unsafe = {entry["id"] for entry, _ in pairs if entry.get("safe_to_share") is False}
    refused = {result["id"] for _, result in pairs if result["safe_to_share"] is False}
    return Scores(
        classes={
            leak: _score(
                {server for server, leaks in due.items() if leak in leaks},
                {server for server, leaks in said.items() if leak in leaks},
            )
            for leak in named
        },
        unsafe=_score(unsafe, refused),
        called_clean=sorted(
            result["id"]
            for entry, result in pairs
            if due[entry["id"]] and result["verdict"] == "no_leak_seen"
        ),
        unknown=sorted(result["id"] for _, result in pairs if result["safe_to_share"] is None),
        servers=len(pairs),
    )


def told(scores: Scores) -> str:
    """Return scores as a table for people."""
    lines = [f"{'':16} precision  recall  right  wrong / missed"]
    for name, score in (*scores.classes.items(), (_UNSAFE, scores.unsafe)):
        lines.append(
            f"{name:16} {score.precision:9.2f} {score.recall:7.2f} {score.right:6}  "
            f"{', '.join(score.wrong) or '-'} / {', '.join(score.missed) or '-'}"
        )
    lines += [
        f"{scores.servers} servers",
        f"a leak is labelled, and called clean: {', '.join(scores.called_clean) or 'none'}",
        f"not known whether it may be shared: {', '.join(scores.unknown) or 'none'}",
    ]
    return "\n".join(lines)


def lines_of(file: Path) -> list[dict[str, Any]]:
    """Return the results in a file of lines."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def _classes(entry: Mapping[str, Any]) -> set[str]:
    named = [str(leak) for leak in entry["leak_classes"] if leak != "none"]
    return {_SAME.get(leak, leak) for leak in named}


def _score(due: set[str], said: set[str]) -> Score:
    return Score(len(due & said), sorted(said - due), sorted(due - said))


def main(results: Path, labels: Path) -> int:
    """Print the scores; return the exit status."""
    entries = json.loads(labels.read_text())
    found = entries["servers"] if isinstance(entries, dict) else entries
    scores = scored(lines_of(results), found)
    print(told(scores))
    return 1 if scores.called_clean else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:3])))
