"""A small server of the modern era only, for tests: raw JSON lines, global state, no dependencies.

`initialize` is refused with -32022. Over HTTP the same answers are given by `modern_http`. Tools:
echo, params (what arrived), remember/recall (global state), ask (input_required, any number of rounds),
progress, log, slow, crash, error.
"""

import json
import os
import sys
import threading
import time

VERSION = "2026-07-28"
META = "io.modelcontextprotocol/"
STATE = {"value": None, "cancelled": [], "lists": 0, "listening": []}
LOCK = threading.RLock()


class Failed(Exception):
    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({"data": data} if data else {})


def complete(**members):
    return {"resultType": "complete", **members}


def text(value, **more):
    return complete(content=[{"type": "text", "text": value}], **more)


def questions(args, round):
    """What `ask` asks in a round: by default one form."""
    kinds = args.get("kinds", ["form"])
    forms = {
        "form": {
            "method": "elicitation/create",
            "params": {
                "mode": "form",
                "message": args.get("text", ""),
                "requestedSchema": args.get("schema")
                or {"type": "object", "properties": {"round": {"const": round}}},
            },
        },
        "url": {
            "method": "elicitation/create",
            "params": {"mode": "url", "message": "Go there", "url": "https://example.com/connect"},
        },
        "sampling": {
            "method": "sampling/createMessage",
            "params": {
                "messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}],
                "maxTokens": 5,
            },
        },
        "roots": {"method": "roots/list"},
    }
    return {f"{kind}-{round}": forms[kind] for kind in kinds}


def ask(params, args):
    """Ask as often as `rounds` says; the state carries what was answered so far."""
    state = json.loads(params.get("requestState") or '{"round": 0, "seen": []}')
    if state["round"]:
        wanted = questions(args, state["round"])
        given = params.get("inputResponses", {})
        if set(wanted) - set(given):
            return {
                "resultType": "input_required",
                "inputRequests": {k: v for k, v in wanted.items() if k not in given},
                "requestState": json.dumps(state),
            }
        state["seen"].append({key: given[key] for key in wanted})
    if state["round"] >= args.get("rounds", 1):
        return text(json.dumps(state["seen"]))
    state["round"] += 1
    return {
        "resultType": "input_required",
        "inputRequests": questions(args, state["round"]),
        "requestState": json.dumps(state),
        "x-unknown": {"kept": None},
    }


def call(params, request_id, send):
    name, args, meta = params["name"], params.get("arguments", {}), params["_meta"]
    token = meta.get("progressToken")
    if name == "echo":
        return text(args.get("text", ""), structuredContent=None, unknown={"kept": [1, None]})
    if name == "params":
        return text(json.dumps(params))
    if name == "region":
        return text(args["region"])
    if name == "remember":
        STATE["value"] = args["value"]
        return text("ok")
    if name == "recall":
        return text(str(STATE["value"]))
    if name == "state":
        return text(json.dumps(STATE))
    if name == "who":
        return text(json.dumps({"pid": os.getpid(), "env": dict(os.environ)}))
    if name == "ask":
        return ask(params, args)
    if name == "progress":
        for step in range(args.get("steps", 3)):
            if token is not None:
                progress = {"progressToken": token, "progress": step + 1, "total": 3}
                send("notifications/progress", progress | {"message": args.get("text", "")})
        return text("done")
    if name == "log":
        if META + "logLevel" in meta:
            send("notifications/message", {"level": "info", "data": args.get("text", "")})
        return text("logged")
    if name == "slow":
        deadline = time.monotonic() + args.get("seconds", 30)
        if token is not None:
            send("notifications/progress", {"progressToken": token, "progress": 0})
        while time.monotonic() < deadline and request_id not in STATE["cancelled"]:
            time.sleep(0.01)
        return text("slept")
    if name == "error":
        raise Failed(args.get("code", -32603), "as asked for", args.get("data"))
    if name == "result":
        return args["result"]
    if name == "crash":
        os._exit(3)
    if name == "touch":
        told("notifications/resources/updated", {"uri": args["uri"]}, args["uri"])
        return text("ok")
    if name == "change":
        TOOLS.append(tool("new_tool"))
        told("notifications/tools/list_changed", {}, "")
        return text("ok")
    raise Failed(-32602, f"Unknown tool: {name}")


def tool(name, schema=None):
    return {
        "name": name,
        "description": f"{name} for tests",
        "inputSchema": schema or {"type": "object"},
        "x-unknown": {"kept": None},
    }


REGION = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
}
TOOLS = [
    tool(name, REGION if name == "region" else None)
    for name in (
        "echo", "params", "region", "remember", "recall", "state", "who", "ask", "progress", "log",
        "slow", "error", "result", "crash", "touch", "change",
    )
]  # fmt: skip
BROKEN = {
    "type": "object",
    "properties": {"list": {"type": "array", "x-mcp-header": "Not a scalar"}},
}
TOOLS.append(tool("broken", BROKEN))
LISTENERS = []


def told(method, params, uri):
    """Tell those who listen to it."""
    for listener in LISTENERS:
        wanted = listener["wanted"]
        if (
            uri in wanted.get("resourceSubscriptions", [])
            if uri
            else wanted.get("toolsListChanged")
        ):
            mark = {META + "subscriptionId": listener["id"]}
            listener["send"](method, {**params, "_meta": mark})


def listen(params, request_id, send):
    wanted = params["notifications"]
    LISTENERS.append({"id": request_id, "wanted": wanted, "send": send})
    STATE["listening"].append(wanted)
    mark = {META + "subscriptionId": request_id}
    honoured = dict(wanted)
    if "resourceSubscriptions" in wanted:
        honoured["resourceSubscriptions"] = [
            uri for uri in wanted["resourceSubscriptions"] if uri != "mem://none"
        ]
    send("notifications/subscriptions/acknowledged", {"notifications": honoured, "_meta": mark})


def end_listen(request_id):
    LISTENERS[:] = [one for one in LISTENERS if one["id"] != request_id]


def discover():
    return complete(
        supportedVersions=[VERSION],
        capabilities={
            "tools": {"listChanged": True},
            "resources": {"subscribe": True},
            "prompts": {},
            "logging": {},
            "completions": {},
        },
        instructions="for tests",
        ttlMs=0,
        cacheScope="private",
        _meta={META + "serverInfo": {"name": "modern", "version": "1"}},
    )


def answer(method, params, request_id, send):
    """Return the result of one request; `send` sends a notification ahead of it."""
    meta = params.get("_meta", {})
    if method == "initialize":
        raise Failed(-32022, "Unsupported protocol version", {"supported": [VERSION]})
    if META + "protocolVersion" not in meta or META + "clientCapabilities" not in meta:
        raise Failed(-32602, "_meta is incomplete")
    if meta[META + "protocolVersion"] != VERSION:
        raise Failed(-32022, "Unsupported protocol version", {"supported": [VERSION]})
    if method == "server/discover":
        return discover()
    if method == "tools/list":
        STATE["lists"] += 1
        return complete(tools=TOOLS, ttlMs=0, cacheScope="public")
    if method == "tools/call":
        return call(params, request_id, send)
    if method == "resources/list":
        return complete(
            resources=[{"uri": "mem://state", "name": "state"}], ttlMs=0, cacheScope="public"
        )
    if method == "resources/templates/list":
        return complete(resourceTemplates=[], ttlMs=0, cacheScope="public")
    if method == "resources/read":
        if params["uri"] == "mem://none":
            raise Failed(-32602, "Resource not found", {"uri": params["uri"]})
        contents = [{"uri": params["uri"], "text": str(STATE["value"])}]
        return complete(contents=contents, ttlMs=5, cacheScope="private")
    if method == "prompts/list":
        return complete(prompts=[{"name": "hello"}], ttlMs=0, cacheScope="public")
    if method == "prompts/get":
        message = {"role": "user", "content": {"type": "text", "text": "hello"}}
        return complete(messages=[message])
    if method == "completion/complete":
        return complete(completion={"values": ["a"]})
    raise Failed(-32601, f"Method not found: {method}")


def main():
    """Serve standard input and output."""

    def write(message):
        with LOCK:
            sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
            sys.stdout.flush()

    def send(method, params):
        write({"method": method, "params": params})

    def work(message):
        try:
            result = answer(message["method"], message.get("params", {}), message["id"], send)
            write({"id": message["id"], "result": result})
        except Failed as failed:
            write({"id": message["id"], "error": failed.error})

    for line in sys.stdin:
        message = json.loads(line)
        if message["method"] == "notifications/cancelled":
            STATE["cancelled"].append(message["params"]["requestId"])
            end_listen(message["params"]["requestId"])
        elif message["method"] == "subscriptions/listen":
            listen(message["params"], message["id"], send)
        elif message.get("params", {}).get("name") == "slow":
            threading.Thread(target=work, args=(message,), daemon=True).start()
        else:
            work(message)


if __name__ == "__main__":
    main()
