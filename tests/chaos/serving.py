"""A hub as a real process, `mcphub serve`, for tests that kill and stop it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from tests.unprivileged import ROOT

MODERN = "2026-07-28"
_CLI = "import sys; from mcphub.cli import main; sys.exit(main())"


class HubProcess:
    """A hub's directory, its command line and its process.

    Args:
        directory: Of the hub; made by `init`.
        python: Command that starts Python, perhaps as another user.
        env: Environment of every command.
    """

    def __init__(
        self,
        directory: Path,
        python: Sequence[str] = (sys.executable,),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.log = directory.parent / "hub.log"
        self.keys: dict[str, str] = {}
        self.url = ""
        self._command = [*python, "-c", _CLI]
        own = {"PATH": os.environ["PATH"], "HOME": str(directory.parent)}
        self._env = dict(env or own | {"PYTHONPATH": str(ROOT / "src")})
        self._env["MCPHUB_DIR"] = str(directory)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *words], input=stdin, env=self._env, cwd="/", capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip

    def popen(self, *words: str) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self._command, *words], env=self._env, cwd="/", stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip

    def ask(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def init(self, servers: Mapping[str, Any], users: Sequence[str]) -> None:
        self.ask("init")
        # in place: the file stays the plain user's
        (self.directory / "mcp_settings.json").write_text(json.dumps({"mcpServers": servers}))
        for user in users:
            self.ask("user", "add", user)
            self.keys[user] = self.ask("key", "create", user)["key"]

    @contextmanager
    def serving(self, *options: str):
        """Serve; what is left at the end is killed."""
        self._process = self.popen("serve", "--port", "0", "--json", *options)
        try:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            assert line, self.log.read_text()
            self.url = json.loads(line)["url"]
            yield self
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def call(self, user: str, server: str, tool: str, **arguments: object) -> str:
        """Call a tool; returns its text."""
        body = self.answer(user, server, tool, **arguments)
        assert "result" in body, (body, self.log.read_text()[-4000:])
        return body["result"]["content"][0]["text"]

    def answer(self, user: str, server: str, tool: str, **arguments: object) -> Any:
        """Call a tool; returns the whole answer."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        answer = httpx2.post(
            f"{self.url}/mcp/{server}",
            timeout=90,
            trust_env=False,
            headers={
                "Authorization": f"Bearer {self.keys[user]}",
                "Accept": "application/json, text/event-stream",
                "MCP-Protocol-Version": MODERN,
                "Mcp-Method": "tools/call",
                "Mcp-Name": tool,
            },
            json={
                "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": tool, "arguments": arguments, "_meta": meta},
            },
        )  # fmt: skip
        return answer.json()

    def tree(self) -> set[int]:
        """Every process below the hub."""
        return children_of(self.process.pid)

    def stop(self, *signals: int, limit_s: float = 60) -> int:
        """Send signals, one after the other was taken; returns the exit status."""
        for number in signals or (signal.SIGTERM,):
            self.process.send_signal(number)
            time.sleep(0.5)
        return self.process.wait(limit_s)


def children_of(pid: int, *, deep: bool = True) -> set[int]:
    """Return the processes below one; only its own children unless `deep`."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | (children_of(child) if deep else set())
    except OSError:
        pass
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids: set[int], limit_s: float) -> float:
    """Wait until no process of `pids` lives; returns how long that took, in seconds."""
    began = time.monotonic()
    while left := {pid for pid in pids if alive(pid)}:
        names = [Path(f"/proc/{pid}/cmdline").read_bytes()[:200] for pid in left if alive(pid)]
        assert time.monotonic() - began < limit_s, names
        time.sleep(0.02)
    return time.monotonic() - began
