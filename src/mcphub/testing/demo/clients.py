"""The real MCP client, connected in the two ways that the demo compares.

`shared_process` starts a published server by stdio, without the hub; `through_hub` speaks
Streamable HTTP to the hub with one user's key. Both give a `Connection`, so that a scenario cannot
tell them apart.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent
from pydantic import ValidationError

from mcphub.testing.demo.observation import CouldNotRun

_CALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool call came back with: its text and whether it is an error."""

    text: str
    failed: bool

    @property
    def brief(self) -> str:
        """The first words of the text on one line."""
        words = " ".join(self.text.split())
        return words if len(words) <= 160 else words[:159] + "…"


class Connection:
    """One client's connection to one server; open only inside its context manager."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Answer:
        """Call a tool; a JSON-RPC error is an answer too.

        Raises:
            CouldNotRun: No answer in time.
        """
        try:
            with anyio.fail_after(_CALL_S):
                result = await self._client.call_tool(tool, dict(arguments or {}))
        except MCPError as error:
            return Answer(str(error), failed=True)
        except TimeoutError:
            raise CouldNotRun(f"{tool} gave no answer within {_CALL_S:.0f} s") from None
        except ValidationError:
            # Some servers answer some calls with a result that no version of MCP allows.
            return Answer("an answer that is not valid MCP", failed=True)
        parts = [part.text for part in result.content if isinstance(part, TextContent)]
        return Answer("\n".join(parts), failed=bool(result.is_error))

    async def must(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Answer:
        """Call a tool that has to succeed.

        Raises:
            CouldNotRun: It failed.
        """
        answer = await self.call(tool, arguments)
        if answer.failed:
            raise CouldNotRun(f"{tool} failed: {answer.brief}")
        return answer


@asynccontextmanager
async def shared_process(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
) -> AsyncIterator[Connection]:
    """Start one server process by stdio; it ends with the context.

    Args:
        argv: Program and arguments.
        env: Added to the few variables that the client passes on by itself.
        cwd: Working directory; created when missing.
        log: Gets the server's stderr.
    """
    await anyio.Path(cwd).mkdir(parents=True, exist_ok=True)
    parameters = StdioServerParameters(command=argv[0], args=list(argv[1:]), env=dict(env), cwd=cwd)
    with log.open("a") as stderr:
        async with _open(stdio_client(parameters, errlog=stderr)) as connection:
            yield connection


@asynccontextmanager
async def through_hub(url: str, key: str) -> AsyncIterator[Connection]:
    """Connect to a server behind the hub as the user whom `key` names.

    Args:
        url: `http://127.0.0.1:PORT/mcp/SERVER`.
        key: The user's API key.
    """
    headers = {"Authorization": f"Bearer {key}"}
    timeout = httpx2.Timeout(30.0, read=_CALL_S * 2)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as http,
        _open(streamable_http_client(url, http_client=http)) as connection,
    ):
        yield connection


@asynccontextmanager
async def _open(transport: Any) -> AsyncIterator[Connection]:
    async with Client(transport, read_timeout_seconds=_CALL_S, cache=None) as client:
        yield Connection(client)
