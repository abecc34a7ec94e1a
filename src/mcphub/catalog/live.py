"""`LiveSettings`: the settings file as it is now, followed while the hub runs.

A valid edit is swapped in as a whole; an invalid one changes nothing but `error`. Polls instead of
watching: works on every file system, and sees a file that editors replace by renaming. A file that
is still being written is left alone until it has stood still for one interval.
"""

import hashlib
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from mcphub.catalog.problems import SettingsError
from mcphub.catalog.settings_file import LoadedSettings, parse_settings, read_text
from mcphub.errors import HubError

OnChange = Callable[[LoadedSettings, LoadedSettings], Awaitable[None] | None]

_Mark = tuple[int, int, int, int] | None
_log = structlog.get_logger()


class LiveSettings:
    """The current settings; `watch` keeps them current.

    Invariants: `current` is always a whole, valid file. `error` tells what is wrong with the file
    as it stands now, and is None when `current` is what stands there.

    Attributes:
        path: The file.
        current: The last valid state.
        error: Why the file as it stands is not in force, or None.

    Args:
        path: The file.
        operator_env: What `${NAME}` may name; read once, at the start of the hub.

    Raises:
        SettingsError: The file cannot be used now. A hub does not start without valid settings.
    """

    def __init__(self, path: Path, operator_env: Mapping[str, str]) -> None:
        self.path = path
        self._operator_env = dict(operator_env)
        self._mark = self._standing()
        self._owners = {0, os.geteuid()}
        text = read_text(path, self._owners)
        self._digest = _digest(text)
        self.current: LoadedSettings = self._parsed(text)
        self.error: SettingsError | None = None

    async def watch(self, on_change: OnChange, *, interval_s: float = 0.5) -> None:
        """Follow the file until cancelled.

        Args:
            on_change: Called with the old and the new state after a swap; may be async. An error of
                the hub's own kind is logged and does not stop the watch.
            interval_s: Time between two looks, in seconds.
        """
        before = self._mark
        while True:
            await anyio.sleep(interval_s)
            mark = await anyio.to_thread.run_sync(self._standing)
            if mark == before and mark != self._mark:
                self._mark = mark
                await self.refresh(on_change)
            before = mark

    async def refresh(self, on_change: OnChange | None = None) -> bool:
        """Look at the file now; return whether another state is in force afterwards."""
        old = self.current
        changed = await anyio.to_thread.run_sync(self._reread)
        if changed and on_change is not None:
            try:
                called = on_change(old, self.current)
                if inspect.isawaitable(called):
                    await called
            except HubError:
                _log.exception("settings.change_failed", file=self.path.name)
        return changed

    def _reread(self) -> bool:
        try:
            text = read_text(self.path, self._owners)
            digest = _digest(text)
            if digest == self._digest:
                self.error = None
                return False
            made = self._parsed(text)
        except SettingsError as error:
            self.error = error
            for problem in error.problems:
                _log.warning(
                    "settings.invalid",
                    file=problem.file,
                    place=problem.path,
                    problem=problem.message,
                    hint=problem.hint,
                )
            return False
        self._digest, self.current, self.error = digest, made, None
        _log.info("settings.changed", file=self.path.name, servers=len(made.specs))
        return True

    def _parsed(self, text: str) -> LoadedSettings:
        hub_dir = self.path.absolute().parent
        return parse_settings(text, self._operator_env, file=self.path.name, hub_dir=hub_dir)

    def _standing(self) -> _Mark:
        """What tells one state of the file from another without reading it; None without a file."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
