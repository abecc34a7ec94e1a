"""`mcphub credential connect`: the command, a browser, a hub, and a server that requires OAuth."""

import json
import os
import re
import sys
from pathlib import Path

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from tests.interaction.accounts import REMOTE, Browser
from tests.interaction.clients import connected, text_of

pytestmark = pytest.mark.anyio
MCPHUB = str(Path(sys.executable).parent / "mcphub")


def environment(hub, user, tmp_path):
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return kept | {"HOME": str(tmp_path), "MCPHUB_KEY": hub.keys[user]}


async def address_in(process):
    """The address of the page that the command shows."""
    told = ""
    with anyio.fail_after(60):
        async for text in TextReceiveStream(process.stderr):
            told += text
            if found := re.search(r"(http://127\.0\.0\.1:\d+/oauth/start/\S+)\s", told):
                return found[1]
    raise AssertionError(told)


async def command(hub, user, tmp_path, *words, stdin=None):
    return await anyio.open_process(
        [MCPHUB, "credential", "connect", REMOTE, "--url", hub.url, "--json", *words],
        env=environment(hub, user, tmp_path),
        stdin=stdin,
    )


async def test_the_command_waits_for_the_browser_and_reports(hub, server, tmp_path):
    process = await command(hub, "alice", tmp_path, "--no-browser")
    async with process, Browser("alice@example") as browser:
        page = await browser.http.get(await address_in(process))
        assert "alice" in page.text and "notes:read" in page.text
        back = await browser.http.get(await browser.log_in(page))
        assert back.headers["location"].startswith("http://127.0.0.1:")
        shown = await browser.http.get(back.headers["location"])
        assert "connected" in shown.text
        with anyio.fail_after(30):
            said = json.loads("".join([text async for text in TextReceiveStream(process.stdout)]))
            assert await process.wait() == 0
    assert said == {"server": REMOTE, "connected": True}
    async with connected(hub, "alice", REMOTE) as alice:
        assert await text_of(alice, "recall") == "you are alice@example"


async def test_what_a_browser_elsewhere_shows_is_pasted(hub, server, tmp_path):
    process = await command(hub, "bob", tmp_path, "--paste", stdin=-1)
    async with process, Browser("bob@example") as browser:
        page = await browser.http.get(await address_in(process))
        shown = await browser.http.get(await browser.log_in(page))
        handed = re.search(r"<code>([\w-]{40,})</code>", shown.text)[1]
        await process.stdin.send(f"{handed}\n".encode())
        with anyio.fail_after(30):
            assert await process.wait() == 0
    async with connected(hub, "bob", REMOTE) as bob:
        assert await text_of(bob, "recall") == "you are bob@example"


async def test_another_browser_gets_nothing_from_the_command(hub, server, tmp_path):
    process = await command(hub, "alice", tmp_path, "--no-browser")
    async with process, Browser("alice@example") as browser:
        page = await browser.http.get(await address_in(process))
        back = (await browser.http.get(await browser.log_in(page))).headers["location"]
        origin, _, rest = back.partition("//")[2].partition("/")
        guessed = await browser.http.get(f"http://{origin}/?{rest.partition('?')[2]}")
        assert guessed.status_code == 404
        forged = await browser.http.get(re.sub("confirmation=.*", "confirmation=forged", back))
        assert forged.status_code == 502
        with anyio.fail_after(30):
            assert await process.wait() == 1
    assert not server.authority.of("alice@example")
