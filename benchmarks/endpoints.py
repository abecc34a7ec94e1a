"""Our side of the comparison, each started fresh on loopback with the same echo server: no gateway, nginx, the hub."""

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from load import Target
from processes import descendants, free_port, started, wait_for

from mcphub import __version__
from mcphub.ground import ground
from mcphub.identity.arrivals import arrive
from mcphub.identity.model import Arrival, Person
from mcphub.settings import load

HERE = Path(__file__).resolve().parent
PYTHON = str(
    (
        Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    ).resolve()
)
"""The interpreter of the stdio echo server, the same for every gateway."""
ECHO = [PYTHON, "-I", "-S", str(HERE / "echo_server.py")]


PROGRAM = [str(Path(sys.executable).with_name("mcphub"))]


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint.

    Attributes:
        target: How it is called.
        gateway: Processes whose processor time and memory count as the gateway's.
        version: Of the gateway.
        servers: Processes that are servers although no gateway started them.
        targets: Further ways to call the same gateway, by name.
    """

    name: str
    target: Target
    gateway: tuple[int, ...]
    version: str = ""
    servers: tuple[int, ...] = ()
    targets: dict[str, Target] = field(default_factory=dict)

    def server_pids(self) -> list[int]:
        """Return the processes that answer behind the gateway."""
        below = [pid for root in self.gateway for pid in descendants(root)]
        return [pid for pid in {*below, *self.servers} if pid not in self.gateway]


def printed_port(process: subprocess.Popen) -> int:
    """Return the port that a process prints when it serves.

    Raises:
        RuntimeError: It ended before that.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("it ended before it served")
    return int(line)


@contextmanager
def direct() -> Iterator[Endpoint]:
    """No gateway: the echo server speaks HTTP itself."""
    with started([sys.executable, str(HERE / "echo_http.py")]) as process:
        yield Endpoint(
            "direct",
            Target(printed_port(process)),
            (process.pid,),
            f"Python {platform.python_version()}",
        )


_NGINX = """
{user}daemon off; master_process on; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 32m; client_body_buffer_size 2m; keepalive_requests 100000000;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
  uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; proxy_buffers 8 128k; proxy_buffer_size 128k;
  upstream echo {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


@contextmanager
def nginx(directory: Path) -> Iterator[Endpoint]:
    """One nginx worker that forwards HTTP to the HTTP echo server; it knows nothing of MCP."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin") or shutil.which("nginx")
    if program is None:
        raise RuntimeError("nginx is not installed: scripts/setup bench")
    version = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr
    with started([sys.executable, str(HERE / "echo_http.py")]) as echo:
        directory.mkdir()
        port = free_port()
        config = directory / "nginx.conf"
        user = (
            "user root;\n" if os.geteuid() == 0 else ""
        )  # else its worker cannot write large bodies
        text = _NGINX.format(user=user, dir=directory, port=port, upstream=printed_port(echo))
        config.write_text(text)
        with started([program, "-c", str(config), "-e", str(directory / "error.log")]) as process:
            wait_for(port, process)
            gateway = (process.pid, *descendants(process.pid))
            found = f"nginx {version.strip().rpartition('/')[2]}"
            yield Endpoint("nginx", Target(port), gateway, found, (echo.pid,))


async def people_of(directory: Path, count: int) -> list[str]:
    """Make users as an administrator would, each in five of 50 groups, and return their API keys."""
    people = [
        Person(f"user-{number}", tuple(f"team-{(number + more) % 50}" for more in range(5)))
        for number in range(count)
    ]
    handed: list[Arrival] = []
    async with ground(load(directory)) as services:
        await arrive(services.db, services.clock, people, add_groups=True, hand_out=handed.extend)
    return [one.key.key.reveal() for one in handed if one.key is not None]


def mcphub(directory: Path, *args: str) -> str:
    """Run the hub's command line as its administrator and return what it prints.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run(
        [*PROGRAM, *args, "--dir", str(directory)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"mcphub {' '.join(args)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def serving(directory: Path, end_s: float = 15) -> Iterator[tuple[int, int]]:
    """Run the hub of a directory on a free port of loopback; gives port and pid."""
    ready = directory / "ready.json"
    options = ["--port", "0", "--ready-file", str(ready), "--log-level", "warning"]
    argv = [*PROGRAM, "serve", "--dir", str(directory), *options]
    with started(argv, end_s=end_s) as process:
        deadline = time.monotonic() + 60
        while not ready.exists() or not ready.read_text().strip():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the hub does not serve")
            time.sleep(0.05)
        told = json.loads(ready.read_text())
        yield int(told["url"].rstrip("/").rpartition(":")[2].partition("/")[0]), int(told["pid"])


@contextmanager
def hub(directory: Path, people: int = 1000) -> Iterator[Endpoint]:
    """MCPHub as an administrator sets it up. Sandbox, policy and request records are on.

    `shared` is one process for everybody, by an administrator's acknowledgement; `own` is a process
    of its own for each user. `modern` is `shared` in the modern era; `url` and `modern-url` are the
    same two behind a URL.
    """
    mcphub(directory, "init", "--json")
    prefix = Path(PYTHON).parents[1]
    outside = [] if prefix.is_relative_to("/usr") else [f"{prefix}/bin", f"{prefix}/lib"]
    server = {
        "command": ECHO[0],
        "args": ECHO[1:],
        "groups": ["everyone"],
        "sandbox": {"egress": [], "readable": [*outside, str(HERE)], "idleSeconds": 3600},
    }
    echoes = ExitStack()
    urls = {
        name: {
            "type": "http",
            "url": f"http://127.0.0.1:{printed_port(echoes.enter_context(started(argv)))}/mcp",
            "groups": ["everyone"],
            "riskLevel": "low",
        }
        for name, argv in (
            ("url", [sys.executable, str(HERE / "echo_http.py")]),
            ("modern-url", [sys.executable, str(HERE / "echo_http.py"), "--modern"]),
        )
    }
    shared = {
        "shared": {**server, "riskLevel": "low"},
        "modern": {**server, "args": [*ECHO[1:], "--modern"], "riskLevel": "low"},
        **urls,
    }
    settings = {"mcpServers": {**shared, "own": {**server, "riskLevel": "critical"}}}
    (directory / "mcp_settings.json").write_text(json.dumps(settings, indent=2))
    reason = ["--reason", "the echo server keeps nothing", "--yes"]
    for name in shared:
        mcphub(directory, "server", "acknowledge", name, "--by", "admin", *reason)
    keys = asyncio.run(people_of(directory, people))
    with echoes, serving(directory) as (port, pid):
        everybody = tuple({"Authorization": f"Bearer {key}"} for key in keys)
        target = Target(port, "/mcp/shared", everybody)
        yield Endpoint(
            "hub",
            target,
            (pid,),
            f"mcphub {__version__}, uvicorn {metadata.version('uvicorn')}",
            targets={
                "one user": Target(port, "/mcp/shared", everybody[-1:]),
                "many users": target,
                "aggregated": Target(port, "/mcp", everybody[-2:-1], "shared__echo"),
                "own": Target(port, "/mcp/own", everybody),
                **{name: Target(port, f"/mcp/{name}", everybody) for name in shared},
            },
        )
