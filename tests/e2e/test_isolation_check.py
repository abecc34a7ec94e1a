"""The isolation check on real published servers."""

import os
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.packages_fixture import install

from mcphub.isolation.check import check
from mcphub.isolation.model import Verdict
from mcphub.isolation.subject import Subject
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]


@asynccontextmanager
async def sandbox():
    with tempfile.TemporaryDirectory() as place:
        async with SandboxedSpawner(SandboxSettings(Path(place))) as spawner:
            assert spawner.level, spawner.problem
            yield spawner


async def checked(store, tmp_path, *words, env=None, url=""):
    found = await install(store, *words)
    subject = Subject(
        "it",
        found.version,
        found.argv,
        env=env or {},
        readable=found.readable,
        url=url,
        source=found.source,
    )
    uid = 200_003 if os.geteuid() == 0 else os.geteuid()
    async with sandbox() as spawner:
        return await check(subject, spawner, tmp_path, uid=uid)


@pytest.mark.parametrize(
    ("words", "env", "classes"),
    [
        (
            ("npx", "@modelcontextprotocol/server-memory@2026.8.31"),
            {},  # it writes into its package: the check gives it a copy
            ("state",),
        ),
        (
            ("npx", "@modelcontextprotocol/server-filesystem@2026.8.31", "{home}/data"),
            {},
            ("filesystem",),
        ),
        (
            ("npx", "@modelcontextprotocol/server-github@2025.4.8"),
            {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_abcdefghijklmnop"},
            ("token",),
        ),
    ],
    ids=["memory", "filesystem", "token"],
)
async def test_a_server_that_leaks_is_found_out_with_evidence(
    package_store, tmp_path, words, env, classes
):
    result = await checked(package_store, tmp_path, *words, env=env)
    assert (result.verdict, result.safe_to_share, result.classes) == (Verdict.LEAK, False, classes)
    (finding,) = result.findings
    assert finding.reproduced and finding.trace[-1].user == "B" and finding.seen
    assert result.recommendation["requiresUserIsolation"] is True


async def test_no_leak_is_seen_in_a_server_without_state(package_store, tmp_path):
    words = ("uvx", "mcp-server-time==2026.10.19", "--local-timezone", "UTC")
    result = await checked(package_store, tmp_path, *words)
    assert (result.verdict, result.safe_to_share) == (Verdict.NO_LEAK_SEEN, True)
    assert set(result.coverage.succeeded) == {"get_current_time", "convert_time"}


async def test_a_server_that_keeps_its_sessions_apart_is_not_accused_of_mixing_them(
    package_store, tmp_path
):
    words = ("npx", "@modelcontextprotocol/server-everything@2026.8.31", "streamableHttp")
    result = await checked(
        package_store,
        tmp_path,
        *words,
        env={"PORT": "{port}", "API_TOKEN": "abcdefgh"},
        url="http://127.0.0.1:{port}/mcp",
    )
    assert result.classes == ("secret",)
