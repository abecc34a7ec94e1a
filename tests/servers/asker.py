"""A stdio server that asks its client as servers that were written before the modern era do; no dependencies.

With the argument `both` it also speaks 2026-07-28, as an SDK makes such a server do: there its tools cannot
ask. Tools:

- `ask`: asks for a form and gives back the answer.
- `hold`: asks when `release` is called, and ends with the answer; `release` ends at once, after that.
- `stuck`: lets `hold` ask, and never ends.
- `impatient`: asks, takes the question back, and ends when `release` is called.
- `sample`: asks the client's model, with tools of the server's.
- `roots`: what the client answered to the question for its directories, asked as soon as the session is open.
- `update`: says that a resource has changed, though nobody can subscribe to it.
- `busy`: reports progress `count` times, every `every_s` seconds.
- `log`: logs, whether or not it is asked to.
"""

import json
import sys
import threading
import time

BOTH = "both" in sys.argv[1:]
VERSION = "2026-07-28"
LOCK = threading.RLock()
NAMES = ("ask", "hold", "release", "stuck", "impatient", "sample", "roots", "update", "busy", "log")
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
HELD = []
ASKED = {}
STATE = {"roots": "not asked", "count": 0}


def send(**message):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def answer(id, value, modern=False):
    result = {"content": [{"type": "text", "text": json.dumps(value)}]}
    send(id=id, result={"resultType": "complete", **result} if modern else result)


def ask(method, params, then):
    STATE["count"] += 1
    question = f"question-{STATE['count']}"
    ASKED[question] = then
    send(id=question, method=method, params=params)
    return question


def elicit(call_id):
    return ask("elicitation/create", FORM, lambda said: answer(call_id, said))


def busy(id, token, args):
    for step in range(args["count"]):
        params = {"progressToken": token, "progress": step}
        send(method="notifications/progress", params=params)
        time.sleep(args["every_s"])
    answer(id, "done")


def told_roots(said):
    STATE["roots"] = said


def call(id, params, meta):
    name, args = params["name"], params.get("arguments", {})
    modern = "io.modelcontextprotocol/protocolVersion" in meta
    if modern and name in {"ask", "hold", "impatient", "sample"}:
        text = (
            "Cannot send 'elicitation/create': this transport context has no back-channel for "
            "server-initiated requests."
        )
        send(id=id, error={"code": -32600, "message": text})
    elif name == "ask":
        elicit(id)
    elif name == "hold":
        HELD.append(lambda: elicit(id))
    elif name == "impatient":
        params = {"requestId": elicit(id), "reason": "It took too long."}
        send(method="notifications/cancelled", params=params)
        HELD.append(lambda: answer(id, "gave up"))
    elif name == "release":
        for then in HELD:
            then()
        HELD.clear()
        answer(id, "released", modern)
    elif name == "stuck":
        for then in HELD:
            then()
    elif name == "sample":
        tool = {"name": "weather", "inputSchema": {"type": "object"}}
        hello = {"role": "user", "content": {"type": "text", "text": "hello"}}
        asked = {"messages": [hello], "maxTokens": 9, "tools": [tool]}
        ask("sampling/createMessage", asked, lambda said: answer(id, said))
    elif name == "roots":
        answer(id, STATE["roots"], modern)
    elif name == "update":
        send(method="notifications/resources/updated", params={"uri": "note://a"})
        answer(id, "updated", modern)
    elif name == "busy":
        threading.Thread(target=busy, args=(id, meta["progressToken"], args)).start()
    elif name == "log":
        if not modern or "io.modelcontextprotocol/logLevel" in meta:
            send(method="notifications/message", params={"level": "info", "data": "heard"})
        answer(id, "logged", modern)


def handle(message):
    method, params = message.get("method"), message.get("params", {})
    if method is None:
        then = ASKED.pop(message["id"], None)
        if then is not None:
            then(message.get("result", message.get("error")))
    elif method == "initialize":
        can = {"tools": {}, "resources": {"subscribe": False}}
        info = {"name": "asker", "version": "1"}
        value = {"protocolVersion": "2025-11-25", "capabilities": can, "serverInfo": info}
        send(id=message["id"], result=value)
    elif method == "server/discover" and BOTH:
        value = {
            "resultType": "complete",
            "supportedVersions": [VERSION],
            "capabilities": {"tools": {}},
        }
        send(id=message["id"], result={**value, "ttlMs": 0, "cacheScope": "private"})
    elif method == "notifications/initialized":
        ask("roots/list", {}, told_roots)
    elif method == "tools/list":
        value = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in NAMES]}
        more = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if BOTH else {}
        send(id=message["id"], result={**value, **more})
    elif method == "tools/call":
        call(message["id"], params, params.get("_meta", {}))
    elif "id" in message:
        send(id=message["id"], error={"code": -32601, "message": "Method not found"})


for line in sys.stdin:
    handle(json.loads(line))
