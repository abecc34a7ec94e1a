"""What the stdio bridge must know of a JSON-RPC message; the message itself stays bytes.

Pure values, stdlib only (start-up time of `mcphub connect`).
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_SENTINEL = "=?base64?"
# Which parameter Mcp-Name repeats (MCP 2026-07-28, streamable HTTP, request metadata; tasks extension).
_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
RpcId = str | int | float


class NotJson(ValueError):
    """A line from the client that is no JSON-RPC message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the client, looked at.

    Attributes:
        raw: The line, as it came.
        ids: Ids of the requests in it: one, several for a batch, none for notifications and answers.
        method: Method of a request or notification; empty for answers and batches.
        params: Its parameters, or an empty dict.
        version: Protocol version in `_meta` (modern era), or empty.
    """

    raw: bytes
    ids: tuple[RpcId, ...]
    method: str
    params: dict[str, Any]
    version: str

    @classmethod
    def parse(cls, raw: bytes) -> "Message":
        """Look at one line.

        Raises:
            NotJson: It is no JSON object or array.
        """
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            raise NotJson from None
        if isinstance(value, list):
            ids = tuple(found for item in value for found in _request_ids(item))
            return cls(raw, ids, "", {}, "")
        if not isinstance(value, dict):
            raise NotJson
        method = value.get("method")
        params = value.get("params")
        params = params if isinstance(params, dict) else {}
        meta = params.get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        return cls(
            raw,
            tuple(_request_ids(value)),
            method if isinstance(method, str) else "",
            params,
            version if isinstance(version, str) else "",
        )

    def modern_headers(self) -> dict[str, str]:
        """Return the headers that a modern request repeats from its body."""
        headers = {
            "MCP-Protocol-Version": header_value(self.version),
            "Mcp-Method": header_value(self.method),
        }
        name = self.params.get(_NAMED_BY.get(self.method, ""))
        if isinstance(name, str):
            headers["Mcp-Name"] = header_value(name)
        return headers


def header_value(text: str) -> str:
    """Encode text for a header: as it is, or `=?base64?…?=` where it could not be told apart or sent."""
    plain = all(0x20 <= ord(char) <= 0x7E for char in text) and text == text.strip()
    if plain and not text.lower().startswith(_SENTINEL):
        return text
    return f"{_SENTINEL}{base64.b64encode(text.encode('utf-8', 'replace')).decode('ascii')}?="


def one_line(raw: bytes) -> bytes:
    """Return JSON text without line breaks; inside strings JSON has none, so nothing is changed."""
    if b"\n" in raw or b"\r" in raw:
        raw = raw.replace(b"\r", b" ").replace(b"\n", b" ")
    return raw.strip()


def answered_ids(value: object) -> Iterator[RpcId]:
    """Yield the ids of the answers (results and errors) in a parsed message or batch."""
    for item in value if isinstance(value, list) else [value]:
        if (
            isinstance(item, dict)
            and "method" not in item
            and ("result" in item or "error" in item)
        ):
            found = item.get("id")
            if isinstance(found, (str, int, float)):
                yield found


def error_line(id_: RpcId | None, code: int, message: str, data: dict[str, Any]) -> bytes:
    """Return a JSON-RPC error answer."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data:
        error["data"] = data
    return json.dumps({"jsonrpc": "2.0", "id": id_, "error": error}).encode()


def _request_ids(value: object) -> Iterator[RpcId]:
    if isinstance(value, dict) and isinstance(value.get("method"), str):
        found = value.get("id")
        if isinstance(found, (str, int, float)) and not isinstance(found, bool):
            yield found


class SseReader:
    """Incremental parser of `text/event-stream` (WHATWG HTML §9.2): bytes in, events out.

    Args:
        limit: Most bytes of one event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._scanned = 0
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of each event that the chunk completes; comments and empty events vanish.

        Raises:
            ValueError: An event is larger than the limit.
        """
        self._rest += chunk
        if len(self._rest) + self._size > self._limit:
            raise ValueError("an event of the hub is too large")
        while (end := self._line_end()) is not None:
            at, width = end
            line, self._rest = self._rest[:at], self._rest[at + width :]
            self._scanned = 0
            if line:
                self._field(line)
            elif self._data:
                data = b"\n".join(self._data)
                self._data, self._size = [], 0
                yield data

    def _line_end(self) -> tuple[int, int] | None:
        """Where the first line ends and how wide its end is; a CR at the very end waits for its LF."""
        rest = self._rest
        lf = rest.find(b"\n", self._scanned)
        cr = rest.find(b"\r", self._scanned, lf if lf >= 0 else len(rest))
        if cr >= 0:
            if cr + 1 == len(rest):
                self._scanned = cr
                return None
            return cr, 2 if rest[cr + 1 : cr + 2] == b"\n" else 1
        if lf >= 0:
            return lf, 1
        self._scanned = len(rest)
        return None

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
