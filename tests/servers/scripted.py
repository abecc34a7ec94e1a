"""A legacy MCP server that plays what its first argument says, a JSON object; no dependencies.

Members: `tools`, `prompts`, `resources`, `templates` (definitions), `capabilities` (more of them),
`start_delay_s`, `list_delay_s`, `fail_list`, `page` (items of one page), `repeat` (how often it lists each item), `modern` (it speaks 2026-07-28 only). Every tool can be called; some names mean something:

- `line`: gives back the request as it came, byte for byte.
- `verbatim`: answers with the text in the argument `result`, whatever it is, as its result.
- `counts`: tells how often each method was asked for.
- `task`: announces a task with the id in the argument `id`; `tasks/get` tells of any.
- `add`: adds the tool in the argument `name` and says that the list changed.
- `size`: a text of the argument `bytes` bytes.
- `flood`: as many progress notifications of `bytes` bytes as `count` says.
"""

import collections
import json
import sys
import time

SCRIPT = json.loads(sys.argv[1])
COUNTS = collections.Counter()
LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "templates",
}
MEMBERS = {"templates": "resourceTemplates"}


def send(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def reply(message, member, raw):
    send('{"jsonrpc":"2.0","id":' + json.dumps(message["id"]) + f',"{member}":{raw}}}')


def text(value):
    return {"content": [{"type": "text", "text": value}]}


def opening(params):
    offers = {name: {"listChanged": True} for name in ("tools", "prompts") if name in SCRIPT}
    if "resources" in SCRIPT or "templates" in SCRIPT:
        offers["resources"] = {"subscribe": True}
    return {
        "protocolVersion": params["protocolVersion"],
        "capabilities": offers | SCRIPT.get("capabilities", {}),
        "serverInfo": {"name": "scripted", "version": "1"},
    }


def listed(method, params):
    time.sleep(SCRIPT.get("list_delay_s", 0))
    if SCRIPT.get("fail_list"):
        raise LookupError("no lists today")
    kind = LISTS[method]
    items, start = SCRIPT.get(kind, []) * SCRIPT.get("repeat", 1), int(params.get("cursor", 0))
    size = SCRIPT.get("page", len(items) or 1)
    value = {MEMBERS.get(kind, kind): items[start : start + size]}
    if start + size < len(items):
        value["nextCursor"] = str(start + size)
    return value


def called(params, line):
    name, given = params["name"], params.get("arguments", {})
    if name == "line":
        return text(line)
    if name == "counts":
        return text(json.dumps(COUNTS))
    if name == "task":
        return {"task": {"taskId": given["id"], "status": "working"}}
    if name == "add":
        SCRIPT["tools"].append({"name": given["name"], "inputSchema": {"type": "object"}})
        send('{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}')
        return text("added")
    if name == "flood":
        token = json.dumps(params["_meta"]["progressToken"])
        pad = "x" * given["bytes"]
        for step in range(given["count"]):
            told = f'"progressToken":{token},"progress":{step},"message":"{pad}"'
            send('{"jsonrpc":"2.0","method":"notifications/progress","params":{' + told + "}}")
        return text("flooded")
    if name == "size":
        return text("x" * given["bytes"])
    return text(json.dumps({"name": name, "arguments": given}))


def modern(method, params, line):
    """Answer as a server of the modern era: what a result needs there is added."""
    if method == "server/discover":
        value = opening({"protocolVersion": ""})
        value = {"supportedVersions": ["2026-07-28"], "capabilities": value["capabilities"]}
    else:
        value = answer(method, params, line)
    return {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", **value}


def answer(method, params, line):
    if method == "initialize" and SCRIPT.get("modern"):
        raise LookupError("no such method")
    if method == "initialize":
        time.sleep(SCRIPT.get("start_delay_s", 0))
        return opening(params)
    if method in LISTS:
        return listed(method, params)
    if method == "tools/call":
        return called(params, line)
    if method == "prompts/get":
        said = {"type": "text", "text": params["name"]}
        return {"messages": [{"role": "user", "content": said}]}
    if method == "resources/read":
        return {"contents": [{"uri": params["uri"], "mimeType": "text/html", "text": "<p>"}]}
    return {"asked": method, "params": params}


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    method, params = message["method"], message.get("params", {})
    COUNTS[method] += 1
    if method == "tools/call" and params["name"] == "verbatim":
        reply(message, "result", params["arguments"]["result"])
        continue
    try:
        give = modern if SCRIPT.get("modern") else answer
        reply(message, "result", json.dumps(give(method, params, line.rstrip("\n"))))
    except LookupError as error:
        reply(message, "error", json.dumps({"code": -32603, "message": str(error)}))
