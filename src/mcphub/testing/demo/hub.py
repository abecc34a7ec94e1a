"""The hub as an administrator runs it: set up and served by the command line, as real processes.

Nothing here reaches into the hub's code; what the demo cannot do by `mcphub`, a team cannot either.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mcphub.testing.demo.observation import CouldNotRun
from mcphub.testing.demo.programs import end, run

_READY_S = 60.0
_STOP_S = 20.0
_INSTALL_S = 900.0
_KEY_AGE = "7d"


class Hub:
    """One hub directory, driven by the `mcphub` command.

    Args:
        directory: The hub's `--dir`.
        log: Gets what `mcphub serve` writes.
    """

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self._log = log
        # Beside the interpreter: the virtual environment need not be active.
        self._program = str(Path(sys.executable).parent / "mcphub")

    async def command(self, *words: str, stdin: str = "", timeout_s: float = 120.0) -> str:
        """Run `mcphub WORDS… --dir DIRECTORY` and return its output; secrets go by `stdin` only.

        Raises:
            CouldNotRun: It failed; the message holds what it said.
        """
        argv = [self._program, *words, "--dir", str(self.directory)]
        return await run(argv, stdin=stdin, timeout_s=timeout_s)

    async def ask(self, *words: str) -> Any:
        """Run a command with `--json` and return the answer."""
        answer = await self.command(*words, "--json")
        try:
            return json.loads(answer)
        except ValueError as error:
            raise CouldNotRun(f"mcphub {' '.join(words)}: not JSON: {answer[:200]}") from error

    async def set_up(self, settings: Mapping[str, Any]) -> None:
        """Initialise the directory if that was not done before, and write its server settings."""
        if not (self.directory / "mcphub.toml").exists():
            await self.command("init")
        target = self.directory / "mcp_settings.json"
        fresh = target.with_suffix(".new")
        fresh.write_text(json.dumps(settings, indent=2) + "\n")
        fresh.replace(target)

    async def users(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Make sure that users and their groups exist; return each one's id and a new API key.

        Args:
            wanted: Name and group of each user.
        """
        known = {user["name"]: user for user in await self.ask("user", "list")}
        groups: set[str] | None = None
        found: list[tuple[str, str]] = []
        for name, group in wanted:
            user = known.get(name) or await self.ask("user", "add", name)
            if group not in user.get("groups", ()):
                if groups is None:
                    groups = {entry["name"] for entry in await self.ask("group", "list")}
                if group not in groups:
                    await self.command("group", "add", group)
                await self.command("group", "join", group, name)
            made = await self.ask("key", "create", name, "--label", "demo", "--expires", _KEY_AGE)
            found.append((user["id"], made["key"]))
        return found

    async def credential(self, user: str, server: str, slot: str, value: str) -> None:
        """Set a user's credential; the value goes by stdin."""
        await self.command("credential", "set", server, slot, "--user", user, stdin=value)

    async def install(self) -> None:
        """Install every server's package, pinned, into the hub's own store."""
        await self.command("server", "install", "--all", timeout_s=_INSTALL_S)

    @asynccontextmanager
    async def serving(self, port: int, work: Path) -> AsyncIterator[str]:
        """Run `mcphub serve` for the block; yield its URL.

        Raises:
            CouldNotRun: It ended or is not ready in time; the end of its log is in the message.
        """
        ready = work / "ready.json"
        argv = [self._program, "serve", "--dir", str(self.directory)]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--ready-file", str(ready)]
        # Ctrl-C in the terminal is for the demo, which then ends the hub in order; if the demo is
        # killed without a chance to do so, the kernel tells the hub.
        guard = shutil.which("setpriv")
        if guard is not None:
            argv = [guard, "--pdeathsig", "TERM", "--", *argv]
        with self._log.open("w") as log:
            process = await anyio.open_process(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            with anyio.move_on_after(_READY_S):
                # Another process makes the file: there is nothing to wait for but the file.
                while not ready.exists() and process.returncode is None:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            if not ready.exists():
                raise CouldNotRun(
                    f"mcphub serve did not get ready (its log: {self._log}): {self._last_words()}"
                )
            yield json.loads(ready.read_text())["url"]
        finally:
            await end(process, grace_s=_STOP_S)

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip()[-600:]
