"""The settings file while it is edited, in the ways in which editors do it."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from mcphub.catalog.live import LiveSettings
from mcphub.catalog.settings_file import LoadedSettings, SettingsError

pytestmark = pytest.mark.anyio

Change = tuple[list[str], list[str]]


def text(*names: str) -> str:
    return json.dumps({"mcpServers": {name: {"command": "/bin/true"} for name in names}})


def write(path: Path, content: str) -> None:
    path.write_text(content)


def delete(path: Path) -> None:
    path.unlink()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mcp_settings.json"
    path.write_text(text("a"))
    return path


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[tuple[LiveSettings, list[Change]]]:
    live = LiveSettings(path, {})
    changes: list[Change] = []

    async def on_change(old: LoadedSettings, new: LoadedSettings) -> None:
        changes.append((list(old.specs), list(new.specs)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: live.watch(on_change, interval_s=0.02))
        yield live, changes
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  the file has no event
            await anyio.sleep(0.01)


async def test_a_rewritten_file_takes_effect_and_is_told_once(path: Path) -> None:
    async with watched(path) as (live, changes):
        write(path, text("a", "b"))
        await until(lambda: bool(changes))
        assert changes == [(["a"], ["a", "b"])]
        assert list(live.current.specs) == ["a", "b"]
        assert live.error is None


async def test_a_file_that_is_replaced_by_renaming_takes_effect(path: Path) -> None:
    async with watched(path) as (live, changes):
        for name in ("b", "c"):
            other = path.with_suffix(".new")
            write(other, text(name))
            other.replace(path)
            await until(lambda name=name: bool(changes) and changes[-1][1] == [name])
        assert list(live.current.specs) == ["c"]
        assert changes == [(["a"], ["b"]), (["b"], ["c"])]


async def test_an_invalid_edit_keeps_the_old_state_and_says_so_until_it_is_repaired(
    path: Path,
) -> None:
    async with watched(path) as (live, changes):
        before = live.current
        write(path, '{"mcpServers": {"b": {"commnd": "x"}}}')
        await until(lambda: live.error is not None)
        assert live.current is before
        assert live.error is not None
        assert live.error.problems[0].path == "$.mcpServers.b.commnd"
        write(path, text("a"))
        await until(lambda: live.error is None)
        assert live.current is before
        write(path, text("c"))
        await until(lambda: bool(changes))
        assert changes == [(["a"], ["c"])]


async def test_a_truncated_file_that_is_written_later_never_empties_the_state(path: Path) -> None:
    async with watched(path) as (live, changes):
        write(path, "")
        await until(lambda: live.error is not None)
        assert list(live.current.specs) == ["a"]
        write(path, text("b"))
        await until(lambda: bool(changes))
        assert changes == [(["a"], ["b"])]


async def test_a_deleted_file_keeps_the_old_state_and_its_return_is_seen(path: Path) -> None:
    async with watched(path) as (live, changes):
        delete(path)
        await until(lambda: live.error is not None)
        assert list(live.current.specs) == ["a"]
        write(path, text("b"))
        await until(lambda: bool(changes))
        assert live.error is None


async def test_a_touched_file_changes_nothing(path: Path) -> None:
    live = LiveSettings(path, {})
    write(path, text("a"))
    assert not await live.refresh(lambda old, new: pytest.fail("nothing changed"))


async def test_a_hub_does_not_start_with_an_invalid_file(path: Path) -> None:
    write(path, "{")
    with pytest.raises(SettingsError):
        LiveSettings(path, {})
