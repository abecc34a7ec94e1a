"""A part of the study, against its labels, and behind the hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.packages_fixture import CACHE

from mcphub.testing.scores import lines_of, scored, told

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
MANIFEST = Path(__file__).parents[2] / "docs/reference/reality-check.servers.json"
# one of each: a token, state, files, secrets over HTTP, nothing
SUBSET = ("slack-ref", "seqthink-ref", "fs-ref", "everything-http", "calc-py")
MAIN = "import sys; from mcphub.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub")
    place.chmod(0o700)
    CACHE.mkdir(parents=True, exist_ok=True)
    (place / "packages").symlink_to(CACHE)
    return place


def run(directory, results, *words):
    fixed = ["check", "--manifest", str(MANIFEST), "--results", str(results)]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *fixed, *words],
        env=os.environ | {"MCPHUB_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode in {0, 1, 2}, done.stderr
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


def only(*names):
    return [word for name in names for word in ("--only", name)]


def test_a_labelled_part_is_judged_as_labelled_and_a_run_goes_on_where_it_ended(
    directory, tmp_path
):
    results = tmp_path / "results.jsonl"
    first = run(directory, results, *only(*SUBSET[:2]))
    results.write_text(results.read_text() + '{"id": "fs-ref", "verd')  # ended while it wrote
    rest = run(directory, results, *only(*SUBSET), "--resume", "--jobs", "2")
    assert sorted(first + rest) == sorted(SUBSET)
    scores = scored(lines_of(results), json.loads(MANIFEST.read_text()))
    assert scores.servers == len(SUBSET)
    assert scores.called_clean == [], told(scores)
    kinds = [*scores.classes.values(), scores.unsafe]
    assert all(kind.precision == kind.recall == 1.0 for kind in kinds), told(scores)


def test_behind_the_hub_nothing_leaks_and_what_cannot_be_tried_says_why(directory, tmp_path):
    results = tmp_path / "behind.jsonl"
    run(directory, results, *only("seqthink-ref", "dbhub"), "--through-hub")
    behind = {line["id"]: line for line in lines_of(results)}
    assert (behind["seqthink-ref"]["verdict"], behind["seqthink-ref"]["classes"]) == (
        "no_leak_seen",
        [],
    )
    assert behind["dbhub"]["verdict"] == "inconclusive"
    assert "speak stdio" in behind["dbhub"]["reason"]


def test_no_server_is_begun_after_the_time_for_all(directory, tmp_path):
    results = tmp_path / "results.jsonl"
    assert run(directory, results, *only("seqthink-ref", "calc-py"), "--total", "1")[0]
    assert len(lines_of(results)) == 1
