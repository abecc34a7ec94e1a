"""Other gateways, each with the stdio echo server behind it and in its cheapest documented form.

They are installed below `.cache/bench` on the first run: pinned by version and hash, in environments of
their own (one needs an MCP SDK of another major version than ours).
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from endpoints import ECHO, Endpoint, printed_port
from load import Target
from processes import free_port, started, wait_for

HERE = Path(__file__).resolve().parent
PINS = HERE / "peers"
CACHE = HERE.parent / ".cache" / "bench"


def _quietly(argv: list[str], cwd: Path | None = None) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(argv[:4])} …: {(done.stderr or done.stdout)[-400:]}")


def _fresh(folder: Path, *pins: Path) -> bool:
    """Return whether `folder` has to be made anew because its pins changed; empties it then."""
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()
    stamp = folder / "made-from"
    if stamp.exists() and stamp.read_text() == digest:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return True


def _made(folder: Path, *pins: Path) -> None:
    digest = hashlib.sha256(b"".join(pin.read_bytes() for pin in pins)).hexdigest()
    (folder / "made-from").write_text(digest)


def _python_peer() -> Path:
    """Return the program of mcp-proxy from PyPI, installed with pinned hashes."""
    folder, pins = CACHE / "mcp-proxy-py", PINS / "mcp-proxy.txt"
    if _fresh(folder, pins):
        uv = str(Path(sys.executable).with_name("uv"))
        environment = folder / "env"
        _quietly([uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
        python = str(environment / "bin" / "python")
        install = ["pip", "install", "--quiet", "--python", python, "--require-hashes", "-r"]
        _quietly([uv, *install, str(pins)])
        _made(folder, pins)
    return folder / "env" / "bin" / "mcp-proxy"


def _node_peers() -> tuple[str, Path]:
    """Return Node.js and the folder of modules, installed from the lock file without scripts."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise RuntimeError("Node.js and npm are not installed: scripts/setup bench")
    folder, pins = CACHE / "node", (PINS / "package.json", PINS / "package-lock.json")
    if _fresh(folder, *pins):
        for pin in pins:
            shutil.copy(pin, folder)
        _quietly([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)
        _made(folder, *pins)
    return node, folder / "node_modules"


def _version(modules: Path, name: str) -> str:
    return (modules / name / "package.json").read_text().split('"version": "')[1].split('"')[0]


@contextmanager
def fastmcp() -> Iterator[Endpoint]:
    """The FastMCP proxy over one connected client, on uvloop and httptools."""
    argv = [sys.executable, str(HERE / "fastmcp_proxy.py"), ECHO[0], ECHO[-1]]
    with started(argv, os.environ | {"FASTMCP_LOG_LEVEL": "ERROR"}) as process:
        version = f"fastmcp {metadata.version('fastmcp')}, mcp {metadata.version('mcp')}"
        yield Endpoint("fastmcp", Target(printed_port(process)), (process.pid,), version)


@contextmanager
def mcp_proxy_py() -> Iterator[Endpoint]:
    """mcp-proxy from PyPI."""
    program, port = _python_peer(), free_port()
    argv = [str(program), "--port", str(port), "--host", "127.0.0.1", "--log-level", "ERROR"]
    with started([*argv, "--", *ECHO], quiet=True) as process:
        wait_for(port, process)
        asked = [
            str(program.with_name("python")),
            "-c",
            "from importlib.metadata import version as v",
        ]
        asked[-1] += "; print(f\"mcp-proxy {v('mcp-proxy')}, mcp {v('mcp')}\")"
        version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
        yield Endpoint("mcp-proxy (PyPI)", Target(port), (process.pid,), version)


@contextmanager
def mcp_proxy_npm() -> Iterator[Endpoint]:
    """mcp-proxy from npm, without its event store."""
    node, modules = _node_peers()
    port = free_port()
    program = modules / "mcp-proxy" / "dist" / "bin" / "mcp-proxy.mjs"
    options = ["--port", str(port), "--host", "127.0.0.1", "--server", "stream", "--no-eventStore"]
    env = os.environ | {"NODE_ENV": "production"}
    with started([node, str(program), *options, "--", *ECHO], env, quiet=True) as process:
        wait_for(port, process)
        version = f"mcp-proxy {_version(modules, 'mcp-proxy')}"
        yield Endpoint("mcp-proxy (npm)", Target(port), (process.pid,), version)


@contextmanager
def supergateway() -> Iterator[Endpoint]:
    """supergateway in its stateful form: a child process for every session."""
    node, modules = _node_peers()
    port = free_port()
    program = modules / "supergateway" / "dist" / "index.js"
    options = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none"]
    argv = [node, str(program), "--stdio", shlex.join(ECHO), "--port", str(port), *options]
    with started(argv, os.environ | {"NODE_ENV": "production"}, quiet=True) as process:
        wait_for(port, process)
        version = f"supergateway {_version(modules, 'supergateway')}"
        yield Endpoint("supergateway", Target(port), (process.pid,), version)
