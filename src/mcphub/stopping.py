"""How a hub stops: told by signals, bounded as a whole.

The parts of a stop have bounds of their own, but one thing that never ends would hold the process for
ever: a server that the kernel does not let go, a thread that waits for a dead disk. So the whole has a
bound too. It is kept by a thread, since the event loop may be what does not answer, and behind it by
an alarm of the kernel, since a log line may not get out. What the hub started ends with it, however
it ends.
"""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final

import structlog

from mcphub.errors import HubError
from mcphub.spawn.process import descendants

_log = structlog.get_logger()

STOP_S: Final = 45.0
"""More than the sum of what the parts may take: calls 5, servers 7, their processes 15, spans 3, records 10."""
HURRIED_S: Final = 5.0
"""What is left of the limit from the second signal on."""
SAVE_S: Final = 3.0
"""Seconds that request records get once the limit is over."""
_ALARM_S: Final = 2.0
_NAMED: Final = 20


class Stopping:
    """The stop of one hub. Made on its event loop; does nothing before `take_signals`.

    The first signal begins the stop, the second ends the time that servers and calls have, the third
    ends everything at once.

    Args:
        limit_s: Seconds from the first signal to the end of the process, but for `SAVE_S`.

    Attributes:
        begun: Set by the first signal.
        hurry: Set by the second one, and when the limit is over.
        failure: Why the hub stops by itself, if it does.
    """

    def __init__(self, limit_s: float = STOP_S) -> None:
        self.begun = asyncio.Event()
        self.hurry = asyncio.Event()
        self.failure: HubError | None = None
        self._limit_s = limit_s
        self._step = "start"
        self._deadline = 0.0
        self._moved = threading.Event()
        self._process_is_the_hubs = False
        self._loop = asyncio.get_running_loop()
        self._instances: Callable[[], list[str]] = list
        self._save: Callable[[], Coroutine[Any, Any, None]] | None = None

    def take_signals(self) -> None:
        """Stop at SIGINT or SIGTERM; on the main thread, in a process that is the hub's own."""
        self._process_is_the_hubs = True
        for name in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(name, self._on_signal)

    def guard(
        self, instances: Callable[[], list[str]], save: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Know what there is to lose.

        Args:
            instances: Returns the instances that are not gone, for administrators.
            save: Writes what is only in memory, and closes the database.
        """
        self._instances, self._save = instances, save

    def at(self, step: str) -> None:
        """Note what the stop has come to."""
        self._step = step

    async def during(self, step: str, work: Callable[[], Awaitable[object]]) -> None:
        """Do a part of the stop."""
        self.at(step)
        await work()

    def fail(self, failure: HubError) -> None:
        """Stop as at a signal, for a reason that the hub found itself; further ones change nothing."""
        if self.failure is None:
            self.failure = failure
            _log.error("hub.cannot_go_on", reason=failure.message, hint=failure.hint)
            if not self.begun.is_set():
                self._begin()

    def _on_signal(self) -> None:
        now = time.monotonic()
        if not self.begun.is_set():
            self._begin()
        elif not self.hurry.is_set():
            self.hurry.set()
            self._end_by(min(self._deadline, now + HURRIED_S))
        else:
            self._end_by(now)

    def _begin(self) -> None:
        self.begun.set()
        if self._process_is_the_hubs:
            self._end_by(time.monotonic() + self._limit_s)
            threading.Thread(target=self._watch, name="stopping", daemon=True).start()

    def _end_by(self, deadline: float) -> None:
        self._deadline = deadline
        self._moved.set()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        left = max(deadline - time.monotonic(), 0.0)
        signal.setitimer(signal.ITIMER_REAL, left + SAVE_S + _ALARM_S)

    def _watch(self) -> None:
        while (left := self._deadline - time.monotonic()) > 0:
            self._moved.wait(left)
            self._moved.clear()
        try:
            self._give_up()
        finally:
            os._exit(1)  # not `sys.exit`: that would wait for threads

    def _give_up(self) -> None:
        _log.error(
            "hub.stop_overdue",
            step=self._step,
            waits_for=self._remains(),
            hint="The hub ends now, with a failure, and its processes with it.",
        )
        with contextlib.suppress(RuntimeError):  # the loop is closed: all is saved
            self._loop.call_soon_threadsafe(self.hurry.set)
            if self._save is not None:
                saved = asyncio.run_coroutine_threadsafe(self._save(), self._loop)
                try:
                    saved.result(SAVE_S)
                except Exception as error:  # noqa: BLE001  nothing comes after this
                    _log.error("hub.not_saved", error=type(error).__name__)

    def _remains(self) -> list[str]:
        """Return what has not ended, a bounded number of names that hold nothing of a user's."""
        found = [*self._instances(), *self._tasks(), *_threads()]
        processes = sorted(descendants(os.getpid()))
        if processes:
            found.append(f"processes {', '.join(map(str, processes[:_NAMED]))}")
        return found[:_NAMED]

    def _tasks(self) -> Iterator[str]:
        for task in asyncio.all_tasks(self._loop):
            name = task.get_name()
            if not name.startswith("Task-") and (task.cancelling() or name.startswith("process.")):
                yield f"task {name}"


def _threads() -> Iterator[str]:
    """Yield the threads that are in code of the hub, with its function."""
    frames = sys._current_frames()  # noqa: SLF001  documented, for this
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        while frame is not None:
            module = str(frame.f_globals.get("__name__", ""))
            if module.startswith("mcphub.") and not module.startswith(("mcphub.cli", __name__)):
                yield f"thread {thread.name} in {module}.{frame.f_code.co_name}"
                break
            frame = frame.f_back
