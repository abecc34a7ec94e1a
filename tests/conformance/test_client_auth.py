"""The client scenarios on authorization of the MCP conformance suite, with the hub as the OAuth client.

The suite plays server and authorization server, one scenario at a time, and starts a client: that is a
user of one real hub, who connects an account as `mcphub credential connect` does and calls a tool.
"""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from mcphub.testing.hub import serving_hub, write_servers
from tests.conformance.test_conformance import HERE, suite  # noqa: F401  a fixture
from tests.interaction.accounts import begin, confirm, link_of
from tests.interaction.clients import raw_client

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(300)]
DOCUMENT = "https://conformance-test.local/client-metadata.json"
ATTEMPTS = 3
BOTH = (
    "metadata-default", "metadata-var1", "metadata-var2", "metadata-var3", "basic-cimd",
    "scope-from-www-authenticate", "scope-from-scopes-supported", "scope-omitted-when-undefined",
    "scope-step-up", "scope-retry-limit", "token-endpoint-auth-basic", "token-endpoint-auth-post",
    "token-endpoint-auth-none", "pre-registration",
)  # fmt: skip
MODERN_ONLY = (
    "resource-mismatch", "offline-access-scope", "offline-access-not-supported",
    "authorization-server-migration", "iss-supported", "iss-not-advertised",
    "iss-supported-missing", "iss-wrong-issuer", "iss-unexpected", "iss-normalized",
    "metadata-issuer-mismatch",
)  # fmt: skip
REQUIRED = {"2025-11-25": BOTH, "2026-07-28": BOTH + MODERN_ONLY}
RUNS = [(revision, name) for revision, names in REQUIRED.items() for name in names]


class User:
    """Alice, at a hub that learns of one server after the other."""

    def __init__(self, hub):
        self.hub, self.number = hub, 0

    async def plays(self, order):
        """Connect to the server of an order and call its tool; returns whether that worked, and what was told."""
        self.number += 1
        name = f"s{self.number}"
        context = order["context"]
        oauth = {"privateHosts": ["localhost"]}
        if "client_id" in context:
            oauth |= {"clientId": context["client_id"], "clientSecret": context["client_secret"]}
        entry = {
            "type": "http", "url": order["url"], "oauth": oauth, "groups": ["everyone"],
            "riskLevel": "critical",
        }  # fmt: skip
        write_servers(self.hub.hub.ground.settings.dir, {name: entry})
        await self.hub.hub.reload()
        told = ""
        async with httpx2.AsyncClient(timeout=60) as browser:
            for _ in range(ATTEMPTS):
                told = await self.connects(browser, name) or await self.calls(name)
                if not told.startswith("again: "):
                    return not told, told
        return False, told

    async def connects(self, browser, name):
        begun = await begin(browser, self.hub, "alice", name)
        if begun.status_code != 200:
            return begun.text
        page = await browser.get(begun.json()["url"])
        sent = await browser.get(link_of(page))
        back = await browser.get(sent.headers["location"])
        if back.status_code != 303:
            return back.text
        handed = back.headers["location"].partition("confirmation=")[2]
        done = await confirm(browser, self.hub, "alice", handed, name)
        return "" if done.status_code == 204 else done.text

    async def calls(self, name):
        async with raw_client(self.hub, "alice", name) as alice:
            for method, params in (
                ("tools/list", {}),
                ("tools/call", {"name": "test-tool", "arguments": {}}),
            ):
                answer = (await alice.modern(method, params)).json()
                if "error" in answer:
                    found = answer["error"]
                    again = found.get("data", {}).get("code") in MENDED
                    return f"{'again: ' if again else ''}{found}"
                if answer["result"].get("isError"):
                    return f"again: {answer['result']}"
        return ""


MENDED = {"missing_credential", "insufficient_scope"}


@asynccontextmanager
async def ordered(user):
    """Take orders of the suite's clients on a free loopback port; yields it."""

    async def take(reader, writer):
        order = json.loads(await reader.readline())
        try:
            worked, told = await user.plays(order)
        except Exception as error:  # noqa: BLE001  the suite shall end, and its report names the reason
            worked, told = False, repr(error)
        writer.write(json.dumps({"status": 0 if worked else 1, "told": told}).encode() + b"\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(("revision", "name"), RUNS, ids=[f"{r}-{n}" for r, n in RUNS])
async def test_the_hub_conforms_as_a_client(suite, tmp_path, revision, name):  # noqa: F811
    overrides = {"oauth": {"client_metadata_url": DOCUMENT}}
    results = tmp_path / "results"
    async with serving_hub(
        tmp_path / "hub", {}, {"alice": []}, environ=dict(os.environ), overrides=overrides
    ) as hub:
        async with ordered(User(hub)) as port:
            command = f"{sys.executable} -S {HERE / 'asking_driver.py'} {port}"
            argv = [
                *suite, "client", "--command", command, "--scenario", f"auth/{name}",
                "--spec-version", revision, "--timeout", "90000", "-o", str(results),
            ]  # fmt: skip
            env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
            with anyio.fail_after(120):
                done = await anyio.run_process(argv, env=env, cwd=tmp_path, check=False)
    checks = [
        check for file in results.rglob("checks.json") for check in json.loads(file.read_text())
    ]
    bad = [
        f"{check['id']}: {check['status']}: {check.get('description', '')}"
        for check in checks
        if check["status"] in {"FAILURE", "WARNING"}
    ]
    report = "\n".join([*bad, done.stdout.decode()[-3000:], done.stderr.decode()[-2000:]])
    assert done.returncode == 0 and checks and not bad, report


async def test_these_are_all_scenarios_on_authorization_that_the_revisions_require(suite):  # noqa: F811
    for revision, names in REQUIRED.items():
        done = await anyio.run_process([*suite, "list", "--requirements", revision])
        listed = {
            line.split()[-1].removeprefix("auth/")
            for line in done.stdout.decode().splitlines()
            if "auth/" in line and "[" not in line  # in brackets: not required
        }
        assert listed == set(names), (revision, done.stdout.decode())
