"""A small legacy MCP server for tests: raw JSON lines, global state, no dependencies.

Tools: echo, remember/recall (global state), who (environment), fail, slow, progress, crash, chatter.
"""

import json
import os
import sys
import threading
import time

STATE = {"value": None, "connected": False}
LOCK = threading.RLock()
CANCELLED = set()
ANSWERS = {}


def send(message):
    with LOCK:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


class NeedsPage(Exception):
    """The user has to open a page before the call can be made (-32042)."""

    def __init__(self, page):
        super().__init__("A page has to be opened.")
        self.data = {"elicitations": [{**page, "elicitationId": "own-id"}]}


def text(value, **more):
    return {"content": [{"type": "text", "text": value}], **more}


def call(message):
    params = message["params"]
    name, args = params["name"], params.get("arguments", {})
    token = params.get("_meta", {}).get("progressToken")
    if name == "echo":
        return text(args.get("text", ""), structuredContent=None, unknown={"kept": [1, None]})
    if name == "params":
        return text(json.dumps(params))
    if name == "remember":
        STATE["value"] = args["value"]
        return text("ok")
    if name == "recall":
        return text(str(STATE["value"]))
    if name == "who":
        return text(
            json.dumps(
                {"pid": os.getpid(), "home": os.environ.get("HOME"), "env": dict(os.environ)}
            )
        )
    if name == "write":
        with open(args["path"], "w") as file:
            file.write(args["text"])
        return text("ok")
    if name == "read":
        with open(args["path"]) as file:
            return text(file.read())
    if name == "progress":
        for step in range(args.get("steps", 3)):
            if token is not None:
                send(
                    {
                        "jsonrpc": "2.0",
                        "method": "notifications/progress",
                        "params": {
                            "progressToken": token,
                            "progress": step + 1,
                            "total": 3,
                            "message": args.get("text", ""),
                        },
                    }
                )
        return text("done")
    if name == "log":
        send(
            {
                "jsonrpc": "2.0",
                "method": "notifications/message",
                "params": {"level": "info", "data": args.get("text", "")},
            }
        )
        return text("logged")
    if name == "slow":
        deadline = time.monotonic() + args.get("seconds", 30)
        while time.monotonic() < deadline and message["id"] not in CANCELLED:
            time.sleep(0.01)
        return text("cancelled" if message["id"] in CANCELLED else "slept")
    if name == "ask":
        with LOCK:
            number = f"ask-{len(ANSWERS) + 1}"
            ANSWERS[number] = (threading.Event(), {})
        send(
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": args.get("method", "elicitation/create"),
                "params": {
                    "message": args.get("text", ""),
                    "requestedSchema": {"type": "object", "properties": {}},
                },
            }
        )
        event, answer = ANSWERS[number]
        event.wait(args.get("patience", 30))
        if args.get("insists") and "error" in answer:
            raise LookupError("no answer, no result")
        return text(json.dumps(answer.get("result", answer.get("error"))))
    if name == "connect":
        if not STATE["connected"]:
            STATE["connected"] = True
            raise NeedsPage({"mode": "url", "message": "Connect first", "url": args["url"]})
        return text("connected")
    if name == "cancelled":
        return text(str(len(CANCELLED)))
    if name == "change":
        TOOLS.append({"name": "new_tool", "inputSchema": {"type": "object"}})
        send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        return text("ok")
    if name == "crash":
        sys.stderr.write("going down with secret " + os.environ.get("TOKEN", "none") + "\n")
        sys.stderr.flush()
        os._exit(3)
    raise KeyError(name)


TOOLS = [
    {
        "name": name,
        "description": f"{name} for tests",
        "inputSchema": {"type": "object"},
        "x-unknown": {"kept": None},
    }
    for name in (
        "echo",
        "params",
        "remember",
        "recall",
        "who",
        "write",
        "read",
        "progress",
        "log",
        "slow",
        "ask",
        "connect",
        "cancelled",
        "change",
        "crash",
    )
]


def answer(message):
    method = message["method"]
    if method == "initialize":
        return {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {
                "tools": {"listChanged": True},
                "resources": {"subscribe": True},
                "prompts": {},
                "logging": {},
            },
            "serverInfo": {"name": "plain", "version": "1"},
            "instructions": "for tests",
        }
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call(message)
    if method == "resources/list":
        return {"resources": [{"uri": "mem://state", "name": "state"}]}
    if method == "resources/templates/list":
        return {"resourceTemplates": []}
    if method == "resources/read":
        return {"contents": [{"uri": message["params"]["uri"], "text": str(STATE["value"])}]}
    if method in {"resources/subscribe", "resources/unsubscribe", "logging/setLevel", "ping"}:
        return {}
    if method == "prompts/list":
        return {"prompts": [{"name": "hello"}]}
    if method == "prompts/get":
        return {"messages": [{"role": "user", "content": {"type": "text", "text": "hello"}}]}
    raise LookupError(method)


def work(message):
    try:
        send({"jsonrpc": "2.0", "id": message["id"], "result": answer(message)})
    except LookupError as error:
        send(
            {
                "jsonrpc": "2.0",
                "id": message["id"],
                "error": {"code": -32601, "message": str(error)},
            }
        )
    except NeedsPage as page:
        error = {"code": -32042, "message": str(page), "data": page.data}
        send({"jsonrpc": "2.0", "id": message["id"], "error": error})
    except OSError as error:
        send(
            {
                "jsonrpc": "2.0",
                "id": message["id"],
                "result": text(f"{type(error).__name__}: {error}", isError=True),
            }
        )


def main():
    sys.stderr.write("plain server is up\n")
    sys.stderr.flush()
    for line in sys.stdin:
        message = json.loads(line)
        if "method" not in message:
            event, answer = ANSWERS[message["id"]]
            answer.update(message)
            event.set()
            continue
        if "id" not in message:
            if message.get("method") == "notifications/cancelled":
                CANCELLED.add(message["params"]["requestId"])
            continue
        if message["method"] == "tools/call" and message["params"]["name"] in {"slow", "ask"}:
            threading.Thread(target=work, args=(message,), daemon=True).start()
        else:
            work(message)


main()
