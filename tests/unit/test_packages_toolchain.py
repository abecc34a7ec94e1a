"""How the installers are found and run: environment, end, messages. Real processes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from mcphub.catalog.toolchain import (
    Toolchain,
    failure,
    find_toolchain,
    neutral,
    run,
    tool_environment,
)
from mcphub.errors import InvalidInput, Unavailable, UpstreamFailed


@pytest.fixture(scope="module")
def tools() -> Toolchain:
    return find_toolchain(os.environ["PATH"])


def test_the_base_interpreter_is_taken_and_not_the_one_of_a_virtual_environment(
    tools: Toolchain,
) -> None:
    assert tools.python.is_file()
    assert not (tools.python.parents[1] / "pyvenv.cfg").exists()
    assert tools.uv.is_file()


def test_a_node_older_than_twenty_is_not_taken(tmp_path: Path) -> None:
    for name, text in (("node", "#!/bin/sh\necho v18.20.1\n"), ("npm", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    assert find_toolchain(str(tmp_path)).node not in (None, (tmp_path / "node").resolve())


def test_only_what_reaches_the_registry_passes_to_the_tools(tmp_path: Path) -> None:
    given = {
        "PATH": "/usr/bin",
        "HOME": "/home/operator",
        "MCPHUB_MASTER_KEY": "canary",
        "AWS_SECRET_ACCESS_KEY": "canary",
        "NODE_OPTIONS": "--require canary",
        "PYTHONPATH": "canary",
        "UV_PYTHON": "canary",
        "NPM_CONFIG_PREFIX": "canary",
        "npm_config_registry": "kept",
        "UV_DEFAULT_INDEX": "kept",
        "SSL_CERT_FILE": "kept",
        "https_proxy": "kept",
        "NO_PROXY": "kept",
    }
    env = tool_environment(given, tmp_path)
    assert "canary" not in " ".join(env.values())
    assert sorted(name for name, value in env.items() if value == "kept") == [
        "NO_PROXY",
        "SSL_CERT_FILE",
        "UV_DEFAULT_INDEX",
        "https_proxy",
        "npm_config_registry",
    ]
    assert env["HOME"] == str(tmp_path)
    assert env["NPM_CONFIG_USERCONFIG"] == "/home/operator/.npmrc"
    assert env["UV_PYTHON_DOWNLOADS"] == "never"
    assert env["UV_SYSTEM_CERTS"] == "1"
    assert tool_environment({"UV_SYSTEM_CERTS": "0"}, tmp_path)["UV_SYSTEM_CERTS"] == "0"


@pytest.mark.anyio
async def test_a_tool_that_takes_too_long_is_killed_with_its_children(
    tools: Toolchain, tmp_path: Path
) -> None:
    with anyio.fail_after(20), pytest.raises(Unavailable):
        await run(tools, _sleeping_pair(tmp_path), cwd=tmp_path, env={}, timeout_s=1.0)
    await _all_gone(tmp_path)


@pytest.mark.anyio
async def test_cancellation_kills_a_tool_with_its_children(
    tools: Toolchain, tmp_path: Path
) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def work() -> None:
                await run(tools, _sleeping_pair(tmp_path), cwd=tmp_path, env={}, timeout_s=60)

            group.start_soon(work)
            await _until(lambda: len(_noted(tmp_path)) == 2)
            group.cancel_scope.cancel()
    await _all_gone(tmp_path)


def _sleeping_pair(directory: Path) -> tuple[str, ...]:
    """Return a command that forks; both processes note their ids in files and wait."""
    code = (
        "import os, pathlib, time\n"
        "os.fork()\n"
        f"pathlib.Path({str(directory)!r}, f'pid-{{os.getpid()}}').touch()\n"
        "time.sleep(120)\n"
    )
    return (sys.executable, "-I", "-S", "-c", code)


def _noted(directory: Path) -> list[int]:
    return [int(path.name.removeprefix("pid-")) for path in directory.glob("pid-*")]


async def _all_gone(directory: Path) -> None:
    await _until(lambda: not any(_alive(pid) for pid in _noted(directory)))


async def _until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while True:
            if condition():
                return
            await anyio.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_messages_hold_no_host_paths_and_no_credentials() -> None:
    line = neutral("open '/srv/hub/packages/x' via https://user:canary@registry.example/pkg\x1b[1m")
    assert "/srv" not in line
    assert "canary" not in line
    assert "\x1b" not in line
    assert "https://registry.example/pkg" in line


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("E404 Not Found - GET https://registry.example/x", InvalidInput),
        ("Because there is no version of x==9, we can conclude…", InvalidInput),
        ("request failed, reason: getaddrinfo EAI_AGAIN registry.example", Unavailable),
        ("client error (Connect): dns error", Unavailable),
        ("something else", UpstreamFailed),
    ],
)
def test_a_failure_says_what_its_reader_can_do(line: str, error: type[Exception]) -> None:
    found = failure("npm", "Resolving npm package x", line)
    assert type(found) is error
    assert found.hint
