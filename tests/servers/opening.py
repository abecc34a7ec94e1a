"""A legacy server that is difficult about what comes before `initialize`, as published ones are.

Argument: what it does with any other first request: `silent`, `exit`, `slow`, `break` (answers nothing any
more), or an error code. It appends what it hears to the file of the second argument.
"""

import json
import os
import sys
import time

HABIT, HEARD = sys.argv[1], sys.argv[2]
opened = False
broken = False


def send(message_id, **members):
    print(json.dumps({"jsonrpc": "2.0", "id": message_id, **members}), flush=True)


if HABIT == "slow":
    time.sleep(4)
for line in sys.stdin:
    message = json.loads(line)
    with open(HEARD, "a") as file:
        file.write(f"{os.getpid()} {message['method']}\n")
    if broken or "id" not in message:
        continue
    if message["method"] == "initialize":
        opened = True
        result = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "opening", "version": "1"},
        }
        send(message["id"], result=result)
    elif not opened and HABIT == "exit":
        sys.exit(1)
    elif not opened and HABIT == "break":
        send(message["id"], error={"code": -32601, "message": "what?"})
        broken = True
    elif not opened and HABIT in {"silent", "slow"}:
        continue
    elif not opened:
        send(message["id"], error={"code": int(HABIT), "message": "not initialized"})
    elif message["method"] == "tools/list":
        send(message["id"], result={"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})
    else:
        text = json.dumps(message.get("params", {}))
        send(message["id"], result={"content": [{"type": "text", "text": text}]})
