"""Nothing is left behind by minutes of calls, and nobody waits for long for what another user does.

The short form of the benchmarks that measure it, with wide limits: a loaded machine must not turn a
build red, a hub that keeps connections or stands still for a second must.
"""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def ran(*argv):
    return subprocess.run(
        [sys.executable, *argv], cwd=BENCHMARKS, capture_output=True, text=True, timeout=280, check=False
    )  # fmt: skip


def test_users_who_come_and_call_and_go_leave_nothing_behind():
    done = ran("soak.py", "--minutes", "0.3", "--users", "8", "--seconds", "0.5")
    assert done.returncode == 0, done.stdout + done.stderr


def test_others_are_served_beside_a_user_who_does_what_is_expensive():
    """A slow reader, messages of 16 MB, a server that writes what nobody asked for."""
    short = ("--users", "4", "--rounds", "2", "--seconds", "1")
    done = ran("neighbours.py", *short, "--limit", "40")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_change_of_one_user_costs_no_more_for_all_the_others_that_there_are():
    short = ("--users", "1500", "--rounds", "2", "--seconds", "2")
    done = ran("changes.py", *short, "--limit", "8")
    assert done.returncode == 0, done.stdout + done.stderr
