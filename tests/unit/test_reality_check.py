"""The study's page, chart and scores, from the lines of a run."""

import json
from xml.etree import ElementTree as ET

import pytest

from mcphub.testing import reality_check
from mcphub.testing.scores import scored, told


def line(server, verdict="no_leak_seen", *, safe=True, classes=(), calls=9, **more):
    findings = [
        {"class": leak, "severity": "high", "title": f"B sees | <b>{leak}</b>", "reproduced": 1,
         "remedy": "Run an instance for each user."}
        for leak in classes
    ]  # fmt: skip
    coverage = {"tools": 3, "succeeded": ["a", "b"], "calls": calls}
    return {
        "id": server, "version": "1.0", "verdict": verdict, "safe_to_share": safe, "notes": [],
        "classes": list(classes), "findings": findings, "coverage": coverage, "seconds": 12.0,
        "reason": "A reason.", "day": "2026-11-26", "recommendation": {"riskLevel": "low"}, **more,
    }  # fmt: skip


def leak(server, *classes, **more):
    return line(server, "leak", safe=False, classes=classes, **more)


LABELS = [
    {"id": "one", "package": "one@1.0", "leak_classes": ["state", "token"], "safe_to_share": False},
    {"id": "two", "package": "two==1.0", "leak_classes": ["none"], "safe_to_share": True},
    {"id": "three", "package": "three", "leak_classes": ["rate-limit"], "safe_to_share": False,
     "transport": "streamable-http"},
]  # fmt: skip


def test_scores_name_what_was_missed_and_what_was_said_wrongly():
    found = scored([leak("one", "state"), leak("two", "secret"), line("three"), line("x")], LABELS)
    state, token, secret = (found.classes[name] for name in ("state", "token", "secret"))
    assert (state.precision, state.recall) == (1.0, 1.0)
    assert (token.recall, token.missed) == (0.0, ["one"])
    assert (secret.precision, secret.wrong) == (0.0, ["two"])
    assert found.classes["history-cache"].missed == ["three"]
    assert found.called_clean == ["three"]
    assert (found.unsafe.precision, found.unsafe.recall) == (0.5, 0.5)
    assert "3 servers" in told(found)


def test_not_knowing_is_no_decision():
    found = scored([line("one", "inconclusive", safe=None)], LABELS)
    assert (found.unsafe.missed, found.unknown, found.called_clean) == (["one"], ["one"], [])


@pytest.fixture
def study(tmp_path):
    shared, behind, manifest = (tmp_path / name for name in ("s.jsonl", "b.jsonl", "m.json"))
    shared.write_text("\n".join(map(json.dumps, [leak("one", "state", "token"), line("two")])))
    not_tried = line("two", "inconclusive", safe=None, calls=0)
    behind.write_text("\n".join(map(json.dumps, [line("one"), not_tried])))
    manifest.write_text(json.dumps(LABELS))
    reality_check.main(shared, behind, manifest, tmp_path)
    return (tmp_path / "reality-check.md").read_text(), tmp_path / "reality-check.svg"


def test_the_page_has_a_row_for_each_server_before_and_behind_the_hub(study):
    page, _ = study
    rows = [row for row in page.splitlines() if row.startswith("| [")]
    assert len(rows) == 2
    assert "| state, token | no leak seen |" in rows[0]
    assert "| no leak seen | not tried |" in rows[1]
    assert "1 entries of the manifest were not checked" in page
    assert "*Remedy:* Run an instance for each user." in page


def test_text_of_a_server_is_no_markup_on_the_page(study):
    page, _ = study
    assert "<b>" not in page
    assert all(row.count(" | ") == 8 for row in page.splitlines() if row.startswith("| ["))


def test_the_chart_marks_leaks_and_what_was_not_tried(study):
    _, chart = study
    marks = [element.tag.rpartition("}")[2] for element in ET.parse(chart).getroot()]
    assert marks.count("circle") == 2 * 2 + 1 + 3  # classes of each server, the hub, the legend
    assert marks.count("path") == 1


def test_what_is_open_beside_a_harmless_finding_is_told(study, tmp_path):
    found = line("one", "leak", safe=None, classes=["history-cache"], reason="More is open: why.")
    (tmp_path / "s.jsonl").write_text(json.dumps(found))
    reality_check.main(*(tmp_path / name for name in ("s.jsonl", "b.jsonl", "m.json")), tmp_path)
    page = (tmp_path / "reality-check.md").read_text()
    assert study[0] != page
    assert "0 of 1 may be shared as they are launched, and of 1 it is not known." in page
    assert "- More is open: why." in page
