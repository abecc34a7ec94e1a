"""A server that writes beside its code: its words are its own, the administrator is told what to change."""

import os
from pathlib import Path

import pytest
from tests.interaction.clients import connected, raw_client
from tests.registry import Published, registry

from mcphub.cli.running import RunningHub
from mcphub.spawn.advice import OWN_PACKAGE
from mcphub.testing.hub import serving_hub

pytestmark = [pytest.mark.e2e, pytest.mark.anyio, pytest.mark.timeout(180)]
SCRIPT = (Path(__file__).parents[1] / "servers" / "beside.js").read_text()
BESIDE = Published({"name": "beside", "version": "1.0.0", "bin": "run.js"}, {"run.js": SCRIPT})


def entry(**fields):
    return {"command": "npx", "args": ["-y", "beside"], "groups": ["everyone"], **fields}


async def kept(hub, user, server, text):
    async with connected(hub, user, server) as client:
        result = await client.call_tool("keep", {"text": text})
    return result.is_error, result.content[0].text


async def test_who_writes_beside_its_code_gets_a_hint_to_an_own_copy(tmp_path):
    servers = {
        "late": entry(),
        "early": entry(env={"EARLY": "1"}),
        "own": entry(sandbox={"ownPackage": True}),
    }
    with registry(BESIDE) as address:
        environ = {**os.environ, "npm_config_registry": address}
        users = {"anna": [], "ben": []}
        async with serving_hub(tmp_path / "hub", servers, users, environ=environ) as hub:
            failed, text = await kept(hub, "anna", "late", "anna's")
            assert failed
            assert "mkdir" in text and OWN_PACKAGE not in text  # the server's own words
            async with raw_client(hub, "ben", "early") as client:
                message = (await client.open()).json()["error"]["message"]
            assert "ended while it was being started" in message
            assert "Error: ENOENT: no such file or directory, mkdir '…/" in message
            assert "Node.js v" not in message  # it says nothing
            assert OWN_PACKAGE in message
            told = await RunningHub(tmp_path / "hub" / "run" / "hub.sock").get("/status")
            assert told["advice"] == {"late": OWN_PACKAGE, "early": OWN_PACKAGE}
            # with the advice taken, each user has an own copy
            assert await kept(hub, "anna", "own", "anna's") == (False, "anna's\n")
            assert await kept(hub, "ben", "own", "ben's") == (False, "ben's\n")
