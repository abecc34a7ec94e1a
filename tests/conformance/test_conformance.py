"""The MCP conformance suite, against a hub with a server of one era behind it: both eras on both sides."""

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.toolchain import find_toolchain
from mcphub.testing.hub import serving_hub
from tests.conformance.forwarder import with_key
from tests.interaction.clients import raw_client
from tests.packages_fixture import CACHE, install

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
SUITE = ("npx", "-y", "-p", "@modelcontextprotocol/conformance@0.2.0-alpha.12", "conformance")
NOT_REQUIRED = (
    "http-header-validation",
    "http-custom-header-server-validation",
    "json-schema-2020-12",
    "server-session-lifecycle",
)
"""Scenarios that no revision requires and that pass; the others are those of the Tasks extension."""
FIXTURE = {
    "command": sys.executable,
    "groups": ["everyone"],
    "riskLevel": "critical",
    "roots": True,
    "sandbox": {"readable": [sys.prefix, sys.base_prefix, str(HERE)]},
}


@pytest.fixture
async def suite():
    """Install the suite and return its command line; its Node.js is that of the test tools."""
    # It asks for Node.js 22; systems have older ones.
    store = PackageStore(CACHE, find_toolchain("/nowhere"), dict(os.environ))
    return (await install(store, *SUITE)).argv


@pytest.fixture(params=["legacy", "modern"])
def era(request):
    """The one era that the server behind the hub speaks."""
    return request.param


@pytest.fixture
async def url(tmp_path, era):
    """A hub in front of the fixture server; returns the URL that needs no key."""
    servers = {"fixture": FIXTURE | {"args": [str(HERE / "fixture_server.py"), era]}}
    users = {"alice": []}
    async with serving_hub(tmp_path / "hub", servers, users, environ=dict(os.environ)) as hub:
        port = urlsplit(hub.url).port
        async with with_key(port, hub.headers("alice")["Authorization"]) as free:
            # the suite's own time limit is for a call, not for the start of a server
            async with raw_client(hub, "alice", "fixture") as alice:
                alice.http.timeout = 120
                started = await alice.modern(
                    "tools/call", {"name": "test_simple_text", "arguments": {}}
                )
                assert "result" in started.json()
            yield f"http://127.0.0.1:{free}/mcp/fixture"


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_the_hub_conforms_to_the_revision(suite, url, tmp_path, revision, era):
    results = tmp_path / "results"
    argv = [
        *suite, "server", "--url", url, "--requirements", revision, "-o", str(results),
        "--expected-failures", str(HERE / f"expected-failures-{revision}-{era}.yml"),
    ]  # fmt: skip
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with anyio.fail_after(300):
        done = await anyio.run_process(argv, env=env, cwd=tmp_path, check=False)
    failed = failures(results)
    report = "\n".join([*failed, done.stdout.decode()[-3000:], done.stderr.decode()[-1000:]])
    assert done.returncode == 0, report
    # The suite runs more than the revision requires, and lets that fail.
    assert not [line for line in failed if line.startswith(NOT_REQUIRED)], report


def failures(results):
    """Return one line for each check that failed: scenario, time, check, reason."""
    return [
        f"{file.parent.name.removeprefix('server-')}: {check['id']}: {check.get('errorMessage', '')}"
        for file in sorted(results.rglob("checks.json"))
        for check in json.loads(file.read_text())
        if check["status"] == "FAILURE"
    ]
