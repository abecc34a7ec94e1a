"""`mcphub connect`: lets a client that speaks only stdio use the hub.

Owns stdin, stdout, the key and the signals; `cli.bridge` does the work. Only the standard library
and httptools are imported here, so that the first message is answered within 300 ms of the start of
Python. stdout carries JSON-RPC and nothing else; the key is never written anywhere.
"""

import argparse
import asyncio
import os
import queue
import signal
import stat
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from mcphub import __version__
from mcphub.cli.bridge import Bridge
from mcphub.cli.http1 import BadUrl, Client, Endpoint

DEFAULT_URL = "http://127.0.0.1:8765/mcp"
DEFAULT_KEY_FILE = "~/.config/mcphub/key"
_LINE_LIMIT = 64 * 1024 * 1024
_WAITING = 256
_NO_KEY = (
    "No API key for the hub: set MCPHUB_KEY, or put the key into "
    f"{DEFAULT_KEY_FILE} (mode 0600), or name a file with --key-file. "
    "An administrator makes one with `mcphub key create USER`."
)


class KeyProblem(Exception):
    """There is no usable API key; the text says what to do."""


def read_key(key_file: str | None) -> str:
    """Return the API key: `--key-file` when named, else `MCPHUB_KEY`, else the default file.

    Raises:
        KeyProblem: There is none, or its file can be read by others.
    """
    variable = os.environ.get("MCPHUB_KEY", "")  # noqa: TID251  settings import pydantic: too slow here
    if key_file is None and variable.strip():
        return _checked(variable)
    path = Path(key_file or DEFAULT_KEY_FILE).expanduser()
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        if key_file is None:
            raise KeyProblem(_NO_KEY) from None
        raise KeyProblem("The key file cannot be read. Correct --key-file.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise KeyProblem(
            "The key file can be read by other users of this machine. Run `chmod 600` on it."
        )
    return _checked(text)


def _checked(text: str) -> str:
    key = text.strip()
    if not key or any(not 0x21 <= ord(char) <= 0x7E for char in key):
        raise KeyProblem("The API key is empty or has characters that no key has. Copy it again.")
    return key


def main(arguments: Sequence[str]) -> int:
    """Run the bridge until the client closes stdin or a signal comes; return the exit status."""
    options = _parser().parse_args(arguments)
    return run(options.url, options.key_file)


def run(url: str, key_file: str | None) -> int:
    """Bridge stdin and stdout to `url`. Returns 0; 1 without a usable key; 2 when the URL cannot be used."""
    try:
        endpoint = Endpoint.parse(url)
    except BadUrl as error:
        print(f"mcphub connect: {error}", file=sys.stderr)
        return 2
    headers = {"User-Agent": f"mcphub-connect/{__version__}"}
    refusal = ""
    try:
        headers["Authorization"] = f"Bearer {read_key(key_file)}"
    except KeyProblem as problem:
        refusal = str(problem)
        print(f"mcphub connect: {refusal}", file=sys.stderr)
    if endpoint.in_clear:
        print(
            "mcphub connect: the key travels unencrypted to another machine; use an https:// URL.",
            file=sys.stderr,
        )
    asyncio.run(_bridge(Client(endpoint, headers), refusal))
    return 1 if refusal else 0


async def _bridge(client: Client, refusal: str) -> None:
    hurry = asyncio.Event()
    loop = asyncio.get_running_loop()
    lines = _Lines(loop, hurry)
    output = _Output(loop, lines.stop)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, lines.stop)
    await Bridge(client, output.write, refusal).run(lines.read(), hurry=hurry)
    await output.flush()


class _Lines:
    """stdin as lines. A thread reads, because a file or a terminal may be there instead of a pipe."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hurry: asyncio.Event) -> None:
        self._loop = loop
        self._hurry = hurry
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(_WAITING)

    def stop(self) -> None:
        """End the lines now and tell the bridge to hurry."""
        self._hurry.set()
        self._queue.put_nowait(None)

    async def read(self) -> AsyncIterator[bytes]:
        """Yield lines until stdin ends or `stop` is called."""
        threading.Thread(target=self._pump, name="stdin", daemon=True).start()
        while not self._hurry.is_set():
            line = await self._queue.get()
            if line is None:
                return
            self._room.release()
            yield line

    def _pump(self) -> None:
        # os.read and not sys.stdin: its lock would be held when the interpreter ends.
        rest = bytearray()
        while True:
            try:
                chunk = os.read(0, 1 << 16)
            except OSError:
                chunk = b""
            if not chunk:
                break
            rest += chunk
            if b"\n" in chunk:
                *complete, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
                for line in complete:
                    self._hand_over(line)
            if len(rest) > _LINE_LIMIT:
                print("mcphub connect: a message is too large; stopping.", file=sys.stderr)
                rest.clear()
                break
        self._hand_over(bytes(rest))
        self._call(None)

    def _hand_over(self, line: bytes) -> None:
        if line := line.strip():
            self._room.acquire()
            self._call(line)

    def _call(self, line: bytes | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
        except RuntimeError:
            return  # the loop has ended


class _Output:
    """stdout. A thread writes, so that a client that does not read cannot stop the bridge."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[], object]) -> None:
        self._loop = loop
        self._gone = gone
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._room = asyncio.Semaphore(_WAITING)
        self._flushed = asyncio.Event()
        threading.Thread(target=self._pump, name="stdout", daemon=True).start()

    async def write(self, line: bytes) -> None:
        """Write one line; waits while too many are under way."""
        await self._room.acquire()
        self._queue.put(line + b"\n")

    async def flush(self) -> None:
        """Wait until all is written, at most a second."""
        self._queue.put(None)
        try:
            async with asyncio.timeout(1.0):
                await self._flushed.wait()
        except TimeoutError:
            return

    def _pump(self) -> None:
        broken = False
        while (line := self._queue.get()) is not None:
            view = memoryview(line)
            while view and not broken:
                try:
                    view = view[os.write(1, view) :]
                except OSError:
                    broken = True
                    self._call(self._gone)
            self._call(self._room.release)
        self._call(self._flushed.set)

    def _call(self, function: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return  # the loop has ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcphub connect",
        description="Bridge a client that speaks only stdio to the hub.",
        epilog='Example, in a client\'s settings: "command": "mcphub", "args": ["connect", "--url", '
        '"http://127.0.0.1:8765/mcp"], "env": {"MCPHUB_KEY": "mcphub_…"}',
    )
    parser.add_argument(
        "--url",
        default=DEFAULT_URL,
        help="Endpoint of the hub: /mcp, /mcp/SERVER or /mcp/@GROUP (default: %(default)s).",
    )
    parser.add_argument(
        "--key-file",
        metavar="FILE",
        help=f"File with the API key, mode 0600 (default: MCPHUB_KEY, else {DEFAULT_KEY_FILE}).",
    )
    return parser
