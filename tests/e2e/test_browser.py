"""The hub's pages in a real browser, which decides itself what it sends along: Chromium, spoken to directly."""

import asyncio
import contextlib
import json
import os
import re
import shutil

import aiohttp
import anyio
import pytest
from tests.interaction.accounts import REMOTE, protected
from tests.interaction.clients import connected, text_of
from tests.servers.oauth_http import protected_server

from mcphub.testing.hub import serving_hub

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]


class Page:
    """One tab, spoken to in the protocol of the developer tools."""

    def __init__(self, socket):
        self._socket, self._last = socket, 0

    async def tell(self, method, **params):
        self._last += 1
        await self._socket.send_json({"id": self._last, "method": method, "params": params})
        while (answer := await self._socket.receive_json()).get("id") != self._last:
            pass
        return answer.get("result", {})

    async def value(self, script):
        found = await self.tell("Runtime.evaluate", expression=script, returnByValue=True)
        return found.get("result", {}).get("value")

    async def shows(self, text):
        """Wait until the page holds a text; returns all that it holds."""
        with anyio.fail_after(20):
            while text not in (body := await self.value("document.body?.innerText ?? ''")):  # noqa: ASYNC110
                await anyio.sleep(0.05)
        return body


@contextlib.asynccontextmanager
async def browser(profile):
    """An empty Chromium; yields its one tab."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless", "--disable-gpu", "--remote-debugging-port=0", *sandbox,
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--disable-quic", f"--user-data-dir={profile}", "about:blank", stderr=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        with anyio.fail_after(60):
            while (found := re.search(rb"ws://(\S+?)/", await process.stderr.readline())) is None:
                assert process.returncode is None
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://{found[1].decode()}/json") as answer:
                tabs = json.loads(await answer.text())
            (tab,) = [tab for tab in tabs if tab["type"] == "page"]
            async with http.ws_connect(tab["webSocketDebuggerUrl"]) as socket:
                yield Page(socket)
    finally:
        process.terminate()
        await process.communicate()


async def test_a_user_connects_an_account_in_a_browser(tmp_path):
    """A browser says where a form comes from, unless the form's own page forbids it."""
    async with protected_server() as server:
        async with (
            serving_hub(
                tmp_path / "hub",
                {REMOTE: protected(server)},
                {"alice": [], "bob": []},
                environ=dict(os.environ),
            ) as hub,
            browser(tmp_path / "profile") as page,
        ):
            await page.tell(
                "Network.setCookie", name="account", value="alice@example", url=server.authority.url
            )
            await page.tell("Page.navigate", url=f"{hub.url}/oauth/connect/{REMOTE}")
            await page.shows("Your API key of this hub")
            await page.value(
                f"document.querySelector('input').value = {json.dumps(hub.keys['alice'])};"
                "document.querySelector('button').click()"
            )
            assert "alice" in await page.shows("Continue at")
            await page.value("document.querySelector('a.go').click()")
            await page.shows("Your account is connected")
            async with connected(hub, "alice", REMOTE) as alice:
                assert await text_of(alice, "recall") == "you are alice@example"
        assert not server.authority.of("bob@example")


async def test_a_page_of_another_origin_neither_sends_nor_frames_the_form(tmp_path):
    async with protected_server() as server:
        async with (
            serving_hub(
                tmp_path / "hub",
                {REMOTE: protected(server)},
                {"alice": []},
                environ=dict(os.environ),
            ) as hub,
            browser(tmp_path / "profile") as page,
        ):
            address = f"{hub.url}/oauth/connect/{REMOTE}"
            evil = (
                f'<iframe src="{address}"></iframe><form method="post" action="{address}">'
                f'<input name="key" value="{hub.keys["alice"]}"></form>'
            )
            await page.tell("Page.navigate", url=f"{server.authority.url}/authorize/none")
            await page.value(f"document.write({json.dumps(evil)}); document.close()")
            framed = "document.querySelector('iframe').contentDocument"
            with anyio.fail_after(20):  # what is refused is of an origin that nobody has
                while await page.value(framed) is not None:  # noqa: ASYNC110
                    await anyio.sleep(0.05)
            await page.value("document.querySelector('form').submit()")
            assert "not sent by a page of the hub" in await page.shows("did not work")
            assert server.authority.registered == {}
