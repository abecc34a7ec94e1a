"""The endpoints that are compared, each started fresh on loopback with the same echo server."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from load import Target
from processes import started

HERE = Path(__file__).resolve().parent
PYTHON = str(
    (
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    ).resolve()
)


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint: how it is called, and the process whose processor time counts."""

    name: str
    target: Target
    pid: int


def _port(process: subprocess.Popen) -> int:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("it ended before it served")
    return int(line)


@contextmanager
def direct() -> Iterator[Endpoint]:
    """No gateway: the echo server speaks HTTP itself."""
    with started([sys.executable, str(HERE / "echo_http.py")]) as process:
        yield Endpoint("direct", Target(_port(process)), process.pid)


@contextmanager
def fastmcp() -> Iterator[Endpoint]:
    """The FastMCP proxy."""
    argv = [sys.executable, str(HERE / "fastmcp_proxy.py"), PYTHON, str(HERE / "echo_server.py")]
    with started(argv, os.environ | {"FASTMCP_LOG_LEVEL": "ERROR"}) as process:
        yield Endpoint("fastmcp", Target(_port(process)), process.pid)


@contextmanager
def hub(directory: Path) -> Iterator[Endpoint]:
    """MCPHub as a user has it: init, a server, a user, a key, serve. Sandbox, policy, records on."""
    program = [str(Path(sys.executable).with_name("mcphub"))]

    def run(*args: str) -> str:
        done = subprocess.run(
            [*program, *args, "--dir", str(directory)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"mcphub {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    run("init", "--json")
    prefix = Path(PYTHON).parents[1]
    outside = [] if prefix.is_relative_to("/usr") else [f"{prefix}/bin", f"{prefix}/lib"]
    server = {
        "command": PYTHON,
        "args": ["-I", "-S", str(HERE / "echo_server.py")],
        "riskLevel": "low",
        "groups": ["everyone"],
        "sandbox": {"egress": [], "readable": [*outside, str(HERE)]},
    }
    settings = {"mcpServers": {"echo": server}}
    (directory / "mcp_settings.json").write_text(json.dumps(settings, indent=2))
    run("user", "add", "a", "--json")
    key = json.loads(run("key", "create", "a", "--json"))["key"]
    ready = directory / "ready.json"
    options = ["--port", "0", "--ready-file", str(ready), "--log-level", "warning"]
    argv = [*program, "serve", "--dir", str(directory), *options]
    with started(argv) as process:
        deadline = time.monotonic() + 60
        while not ready.exists() or not ready.read_text().strip():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the hub does not serve")
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        port = int(told["url"].rstrip("/").rpartition(":")[2].partition("/")[0])
        headers = {"Authorization": f"Bearer {key}"}
        yield Endpoint("hub", Target(port, "/mcp/echo", headers), int(told["pid"]))
