"""Both doors refuse and answer the same: one corpus of requests as bytes, sent through each.

What differs is none of a caller's business: the id of the request. Two users, since a session or key
of somebody else is one of the things that are tried.
"""

import json
import os
import re

import pytest
from tests.interaction.clients import MODERN, plain, raw_client, request
from tests.security.raw_http import exchange

from mcphub.testing.hub import serving_hub

pytestmark = pytest.mark.anyio

META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
HEADERS = {
    "Host": ["evil.example", "localhost:80x", "LOCALHOST", "127.0.0.1:99999", "", "localhost "],
    "Authorization": ["bearer {key}", "Bearer  {key}", "Basic x", "{key}", "Bearer {other}", "Bearer {key}x",
                      "Bearer {key}\x80", ""],
    "Content-Type": ["text/plain", "application/json; charset=utf-8", "APPLICATION/JSON", "application/jsonx", ""],
    "Accept": ["text/html", "*/*", "application/json", ""],
    "Mcp-Session-Id": ["x", "{session} ", "{session}\x00", "{foreign}", ""],
    "MCP-Protocol-Version": ["2025-11-25", "1999-01-01", "", f"{MODERN} "],
    "Mcp-Method": ["tools/list", "TOOLS/CALL", ""],
    "Mcp-Name": ["other", "ECHO", "=?base64?ZWNobw==?=", ""],
}  # fmt: skip
MORE = [
    "Origin: http://localhost:1", "Origin: null", "Origin: http://evil.example", "Connection: close",
    "Connection: keep-alive, X", "TE: trailers", "Content-Encoding: gzip", "X-MCPHub-User-Id: root",
    "Cookie: a=b", "X-Forwarded-Host: evil.example", "Mcp-Param-X: 1", "Last-Event-ID: 1", "Range: bytes=0-1",
    "If-None-Match: *", "X-HTTP-Method-Override: DELETE", "Authorization: Bearer x", "Host: localhost",
    f"traceparent: 00-{'a' * 32}-{'b' * 16}-01", "Upgrade: websocket",
]  # fmt: skip
PATHS = [
    "/mcp/plain/", "/mcp/plain?x=1", "/mcp//plain", "/mcp/./plain", "/mcp/PLAIN", "/mcp/plain%20", "/mcp/pl%61in",
    "/mcp/", "/mcp/@engineering", "/mcp/@data", "/mcp/none", "/MCP/plain", "http://localhost/mcp/plain",
    "/mcp/plain;x", "/mcp/plain/x", "/mcp/private", "/mcp/..", "/mcp/plain\x01",
]  # fmt: skip
CALL = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"text":"x"}}}'
BODIES = [
    "", "[]", "null", "1", '"x"', f"[{CALL}]", f"{CALL} ", f"{CALL}x", CALL + CALL, f"\ufeff{CALL}", f"\r\n{CALL}",
    *(CALL.replace('"id":1', given) for given in (
        '"id":1,"id":2', '"id":null', '"id":1.0', '"id":{}', '"id":true', '"id":"a\\u0000b"', f'"id":{"9" * 40}',
    )),
    CALL.replace('"id":1,', ""), CALL.replace('"2.0"', '"1.0"'), CALL.replace('"tools/call"', "1"),
    CALL.replace('"tools/call"', '"tools/cal"'), CALL.replace('"params"', '"method":"tools/list","params"'),
    *(CALL.replace('"echo"', name) for name in ("1", '"none"', '"' + "e" * 9000 + '"', '"a\\r\\nX: y"')),
    *(CALL.replace('"x"', text) for text in (
        "NaN", '"\\ud800"', '"a\nb"', '"\u2028"', '"\0"', "[" * 3000 + "]" * 3000, "[" * 200_000, '"x","text":"y"',
    )),
    f'{CALL[:-1]},"extra":1}}', f'{CALL[:-1]},"result":{{}}}}', f'{CALL[:-1]},"error":{{"code":1,"message":"m"}}}}',
    *(CALL.replace('"params":{', f'"params":{{{more},') for more in (
        '"_meta":null', '"_meta":[]', '"task":{"ttl":1}', '"requestState":"s.x"', '"requestState":"s.\u00e9"',
        '"requestState":"w.x","inputResponses":{}', '"requestState":7', '"inputResponses":{"q1":{}}',
    )),
]  # fmt: skip


def corpus(key, other, session, foreign):
    """Yield a name and a request for each thing that is tried, in both eras."""
    secrets = {"key": key, "other": other, "session": session, "foreign": foreign}
    base = {"Host": "localhost", "Authorization": f"Bearer {key}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream"}  # fmt: skip
    modern = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
    for era, plainly in (("legacy", {"Mcp-Session-Id": session}), ("modern", modern)):
        usual = base | plainly
        meta = f'"params":{{"_meta":{json.dumps(META)},' if era == "modern" else '"params":{'

        def written(
            headers=usual, body=CALL, verb="POST", path="/mcp/plain", more=(), version="1.1", meta=meta
        ):  # fmt: skip
            data = body.replace('"params":{', meta, 1).encode()
            lines = [
                f"{verb} {path} HTTP/{version}",
                *(f"{n}: {v}" for n, v in headers.items()),
                *more,
            ]
            head = "\r\n".join([*lines, f"Content-Length: {len(data)}", "", ""])
            return head.encode("latin-1") + data

        yield f"{era}", written()
        for name, values in HEADERS.items():
            yield f"{era} without {name}", written({n: v for n, v in usual.items() if n != name})
            for value in values:
                yield f"{era} {name}: {value}", written(usual | {name: value.format_map(secrets)})
        for line in MORE:
            yield f"{era} and {line}", written(more=[line])
        for path in PATHS:
            yield f"{era} {path!r}", written(path=path)
        for verb in ("PUT", "HEAD", "OPTIONS", "PATCH", "post"):
            yield f"{era} {verb}", written(verb=verb)
        for version in ("1.0", "1.2", "2.0"):
            yield f"{era} HTTP/{version}", written(version=version)
        for body in BODIES:
            yield f"{era} {body[:150]!r}", written(body=body)


def told(answer):
    """What of an answer is the same for everybody: status, headers, body."""
    answer = re.sub(rb"(?i)(x-mcphub-request-id: )\S+", rb"\1ID", answer)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    return first, sorted(line.lower() for line in lines), body


async def answers(directory, *, fast_lane):
    """Send the corpus to a hub of its own; returns what was told by name, and calls that took the fast lane."""
    async with serving_hub(
        directory,
        {"plain": plain(), "private": plain(groups=["data"])},
        {"alice": ["engineering"], "bob": ["data"]},
        environ=dict(os.environ),
        overrides={"listen": {"fast_lane": fast_lane}},
    ) as hub:
        async with raw_client(hub, "alice") as alice, raw_client(hub, "bob") as bob:
            for client in (alice, bob):
                await client.open()
                await client.post(
                    request("tools/call", {"name": "echo", "arguments": {"text": "w"}})
                )
            keys = hub.keys["alice"], hub.keys["bob"]
            sessions = [client.headers["Mcp-Session-Id"] for client in (alice, bob)]
            found = {}
            for name, data in corpus(*keys, *sessions):
                try:
                    found[name] = told(await exchange(hub.url, data, seconds=3))
                except TimeoutError:
                    found[name] = None  # it waits for more
        return found, hub.hub.plane.metrics.fast


async def test_both_doors_answer_the_same(tmp_path):
    fast, taken = await answers(tmp_path / "fast", fast_lane=True)
    slow, none = await answers(tmp_path / "slow", fast_lane=False)
    assert taken > 30 and none == 0 and len(fast) > 200
    assert {name: (fast[name], slow[name]) for name in fast if fast[name] != slow[name]} == {}
    told_ok = [name for name in fast if fast[name] and b'"result"' in fast[name][2]]
    assert len(told_ok) > 30
    for name in (
        "legacy Mcp-Session-Id: {foreign}",
        "legacy '/mcp/private'",
        "modern '/mcp/@data'",
    ):
        assert b'"result"' not in fast[name][2], name
