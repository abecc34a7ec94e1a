"""The cheapest possible stdio MCP server: one tool, `echo`. Standard library only.

Measures what stands in front of it, not itself: it reads what is there, answers every line, and
writes once. A second tool, `flood`, writes notifications that nobody asked for before its answer. With `--modern` it speaks 2026-07-28 only, else the legacy revisions only.
"""

import json
import os
import sys

MODERN = "--modern" in sys.argv[1:]

TOOLS = [
    {
        "name": "echo",
        "description": "Returns its text.",
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    }
]
NOISE = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":0,"progress":1}}\n'
COMPLETE = {"resultType": "complete"} if MODERN else {}
LISTED = {"ttlMs": 0, "cacheScope": "private"} | COMPLETE if MODERN else {}


def answer(line: bytes) -> bytes | None:
    """Return the response to one message; None for a notification."""
    message = json.loads(line)
    if "id" not in message:
        return None
    method, params = message["method"], message.get("params") or {}
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    if method == "tools/call" and params["name"] == "flood":
        reply["result"] = {"content": []} | COMPLETE
        flood = NOISE * params["arguments"]["lines"]
        return flood + json.dumps(reply, separators=(",", ":")).encode()
    if method == "tools/call":
        text = params["arguments"]["text"]
        reply["result"] = {"content": [{"type": "text", "text": text}], "isError": False} | COMPLETE
    elif method == "server/discover" and MODERN:
        reply["result"] = {
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "echo", "version": "1.0.0"}},
        } | COMPLETE
    elif method == "initialize" and not MODERN:
        reply["result"] = {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "echo", "version": "1.0.0"},
        }
    elif method == "tools/list":
        reply["result"] = {"tools": TOOLS} | LISTED
    elif method == "ping":
        reply["result"] = {}
    else:
        reply["error"] = {"code": -32601, "message": "Method not found"}
    return json.dumps(reply, separators=(",", ":")).encode()


def main() -> None:
    """Serve standard input until it ends."""
    rest: list[bytes] = []
    while data := os.read(0, 65536):
        rest.append(data)
        if b"\n" not in data:
            continue
        *lines, last = b"".join(rest).split(b"\n")
        rest = [last]
        answers = [reply for line in lines if line.strip() and (reply := answer(line))]
        if answers:
            out = memoryview(b"\n".join(answers) + b"\n")
            while out:
                out = out[os.write(1, out) :]


if __name__ == "__main__":
    main()
