"""What the conformance suite starts as the client: passes its order on to the test that has the hub.

Arguments: a port of 127.0.0.1, and the URL that the suite appends. The exit status is the test's word.
"""

import json
import os
import socket
import sys

order = {
    "url": sys.argv[-1],
    "context": json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}"),
}
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=100) as connection:
    connection.sendall(json.dumps(order).encode() + b"\n")
    answer = json.loads(connection.makefile().readline())
print(answer["told"])
sys.exit(answer["status"])
