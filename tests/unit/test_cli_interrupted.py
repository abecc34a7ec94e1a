"""Ctrl-C ends the command line with its status, also while it still loads its modules."""

import pytest

from mcphub import cli


def test_an_interruption_at_any_moment_is_a_status_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupted)
    assert cli.main() == 130
