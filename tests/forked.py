"""A spawner that forks every launch from a zygote, also those that no package made."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Self

from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Preload, Process
from mcphub.spawn.zygote.spawner import ZygoteSpawner

PRELOAD = Preload("/usr/bin/python3", ("json",))


class ForkingSpawner:
    """Implements `Spawner`; fails where a start did not come from a zygote."""

    def __init__(
        self,
        settings: SandboxSettings,
        preload: Preload = PRELOAD,
        on_egress: Callable[[EgressEvent], None] | None = None,
    ) -> None:
        self.plain = SandboxedSpawner(settings, on_egress)
        self.egress = self.plain.egress
        self.zygotes = ZygoteSpawner(self.plain)
        self._preload = preload
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.plain)
        await self._stack.enter_async_context(self.zygotes)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def level(self) -> int:
        return self.plain.level

    @property
    def warning(self) -> str:
        return self.plain.warning

    @property
    def means(self) -> str:
        return self.plain.means

    @property
    def problem(self) -> str:
        return self.plain.problem

    def home_inside(self, launch_home):
        return self.plain.home_inside(launch_home)

    async def start(self, launch: Launch) -> Process:
        before = sum(zygote.forks for zygote in self.zygotes.zygotes())
        process = await self.zygotes.start(replace(launch, preload=self._preload))
        assert sum(zygote.forks for zygote in self.zygotes.zygotes()) > before
        assert process in self.zygotes.processes(), "it was started plainly"
        return process
