"""Programs that the demo runs end with it, and their failures say why."""

import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mcphub.testing.demo.observation import CouldNotRun
from mcphub.testing.demo.programs import run
from mcphub.testing.demo.run import claimed

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  another process makes it true
        await anyio.sleep(0.01)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_a_program_gets_its_input_and_returns_its_output() -> None:
    code = "import sys; print(sys.stdin.read().upper())"
    assert await run([sys.executable, "-c", code], stdin="value") == "VALUE\n"


async def test_a_failure_says_the_last_words() -> None:
    code = "import sys; sys.exit('the disk is full')"
    with pytest.raises(CouldNotRun, match="exit status 1: the disk is full"):
        await run([sys.executable, "-c", code])


async def test_a_missing_program_is_a_reason() -> None:
    with pytest.raises(CouldNotRun, match="No such file"):
        await run(["/nowhere/program"])


async def test_cancelling_ends_the_program_and_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 300 & echo $! > {pid_file}; wait"
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, ["/bin/sh", "-c", script])
            await until(lambda: pid_file.exists() and pid_file.read_text().strip() != "")
            tasks.cancel_scope.cancel()
        await until(lambda: ended(int(pid_file.read_text())))


async def test_a_program_that_takes_too_long_is_ended() -> None:
    with anyio.fail_after(30), pytest.raises(CouldNotRun, match="not done after 0 s"):
        await run(["/bin/sleep", "300"], timeout_s=0.1)


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CouldNotRun, match="not empty and not a demo's"), claimed(tmp_path):
        pass


def test_an_own_directory_is_taken_again_but_not_by_two_at_once(tmp_path: Path) -> None:
    with claimed(tmp_path / "demo"):
        (tmp_path / "demo" / "hub").mkdir()
        with pytest.raises(CouldNotRun, match="another demo"), claimed(tmp_path / "demo"):
            pass
    with claimed(tmp_path / "demo"):
        assert (tmp_path / "demo" / "hub").is_dir()
