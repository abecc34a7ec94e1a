"""The FastMCP proxy in front of the stdio echo server: served by uvicorn with uvloop and httptools.

One connected client is shared by all calls, which is FastMCP's cheapest form with a stdio server.
Prints its port. Usage: fastmcp_proxy.py PYTHON ECHO_SERVER
"""

import asyncio
import socket
import sys

import uvicorn
import uvloop
from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.server import create_proxy


async def main() -> None:
    """Serve on a free port of loopback until killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    transport = StdioTransport(sys.argv[1], ["-I", "-S", sys.argv[2]])
    async with Client(transport) as client:
        app = create_proxy(client, name="proxy").http_app(path="/mcp", json_response=True)
        config = uvicorn.Config(
            app, loop="none", http="httptools", log_level="error", access_log=False, lifespan="on"
        )
        server = uvicorn.Server(config)
        print(listener.getsockname()[1], flush=True)
        await server.serve(sockets=[listener])


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
