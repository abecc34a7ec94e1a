"""Background tasks that belong to somebody: a `TaskGroup` in which one failure does not end the rest.

Every task of the hub runs in one of these (no orphan tasks); an exception that a task did not expect
is logged with the task's name and ends that task only: one user's broken server is not the hub's.
"""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

import structlog

_log = structlog.get_logger()


class Tasks:
    """An open set of tasks. Leaving the context waits for them, or cancels them after `cancel_all`."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            # tasks here never fail, so it is the body's own error: that goes on as it was
            if error is None or group.exceptions != (error,):
                raise

    def start(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run `work` in the background."""
        task = self._group.create_task(self._guarded(name, work), name=name)
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        task.add_done_callback(lambda _: work.close())  # cancelled before its first step
        return task

    def cancel_all(self) -> None:
        """Cancel what still runs."""
        for task in list(self._open):
            task.cancel()

    @staticmethod
    async def _guarded(name: str, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception:  # noqa: BLE001  the boundary: logged, and the other tasks live on
            _log.exception("task.failed", task=name)
