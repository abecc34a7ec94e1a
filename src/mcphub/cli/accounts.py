"""`mcphub credential connect`: connect an own account to a server that requires OAuth.

The hub does the whole flow; this command proves who the user is with the API key, shows a page of the
hub, and hands back what the browser brings to this machine. Tokens never come here.
"""

import asyncio
import html
import secrets
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import parse_qs, urlsplit

import typer

from mcphub.cli.running import UserHub
from mcphub.cli.shell import Cli
from mcphub.errors import HubError, InvalidInput, Unavailable
from mcphub.settings import environment

DEFAULT_URL: Final = "http://127.0.0.1:8765"
_DISPLAYS: Final = frozenset({"DISPLAY", "WAYLAND_DISPLAY"})
_LONGEST: Final = 8192


async def connect_account(
    cli: Cli,
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Name of the server.")],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help=f"The hub (default: {DEFAULT_URL})."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="Your API key (default: MCPHUB_KEY)."),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address of the page.")
    ] = False,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="The browser is on another machine: paste what it shows."),
    ] = False,
) -> None:
    """Connect your own account to a server that requires OAuth: opens a page, waits, reports.

    The hub keeps the authorization sealed, for your calls only. End it with:
    mcphub credential delete SERVER OAUTH
    """
    hub = UserHub(url or DEFAULT_URL, key_file)
    if paste:
        begun = await hub.begin_connection(server, "")
        cli.note(f"Open this page, log in at {begun['host']}, and paste what it shows in the end:")
        cli.note(f"  {_page(begun['url'])}")
        confirmation = (await asyncio.to_thread(input, "Paste: ")).strip()
        await hub.confirm_connection(server, confirmation)
    else:
        async with _Return.waiting() as back:
            begun = await hub.begin_connection(server, back.url)
            page = _page(begun["url"])
            cli.note(f"Open this page and log in at {begun['host']}:")
            cli.note(f"  {page}")
            if not no_browser and _DISPLAYS & environment().keys():
                await asyncio.to_thread(webbrowser.open, page)
            await back.confirmed(hub, server, float(begun["expires_in"]))
    cli.show({"server": server, "connected": True}, f"Your account is connected to {server}.")


class _Return:
    """A page on this machine's loopback to which the hub sends the browser back, once."""

    def __init__(self, port: int, path: str) -> None:
        self.url = f"http://127.0.0.1:{port}{path}"
        self._path = path
        self._came: asyncio.Future[tuple[str, asyncio.StreamWriter]] = (
            asyncio.get_running_loop().create_future()
        )

    @classmethod
    @asynccontextmanager
    async def waiting(cls) -> "AsyncIterator[_Return]":
        """Listen for the time of the block."""
        path = f"/{secrets.token_urlsafe(16)}"
        made: list[_Return] = []

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await made[0].take(reader, writer)

        listener = await asyncio.start_server(take, "127.0.0.1", 0, limit=_LONGEST)
        made.append(cls(listener.sockets[0].getsockname()[1], path))
        try:
            yield made[0]
        finally:
            listener.close()

    async def confirmed(self, hub: UserHub, server: str, within_s: float) -> None:
        """Wait for the browser, confirm, and tell it how that ended.

        Raises:
            Unavailable: It did not come.
            HubError: What the hub answered.
        """
        try:
            async with asyncio.timeout(within_s):
                confirmation, writer = await self._came
        except TimeoutError:
            raise Unavailable(
                "The browser did not come back.",
                hint="Run the command again; with --paste if the browser is on another machine.",
            ) from None
        try:
            await hub.confirm_connection(server, confirmation)
        except HubError as error:
            await _answer(writer, 502, str(error))
            raise
        await _answer(writer, 200, "Your account is connected. You can close this page.")

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a request; only the one with the confirmation counts."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            writer.close()
            return
        method, _, rest = head.partition(" ")
        target = urlsplit(rest.partition(" ")[0])
        given = parse_qs(target.query).get("confirmation", [])
        if method != "GET" or target.path != self._path or len(given) != 1 or self._came.done():
            await _answer(writer, 404, "There is nothing here.")
            return
        self._came.set_result((given[0], writer))


async def _answer(writer: asyncio.StreamWriter, status: int, text: str) -> None:
    body = (
        f"<!doctype html><meta charset=utf-8><title>MCPHub</title><p>{html.escape(text)}".encode()
    )
    writer.write(
        f"HTTP/1.1 {status} -\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
        + body
    )
    try:
        await writer.drain()
        writer.close()
    except ConnectionError:
        return


def _page(url: str) -> str:
    """Return a page's address, if it is one that a browser opens as a page.

    Raises:
        InvalidInput: It is not.
    """
    if urlsplit(url).scheme not in {"http", "https"} or not url.isprintable() or " " in url:
        raise InvalidInput("The hub named no page.")
    return url
