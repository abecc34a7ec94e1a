"""A legacy Streamable HTTP server whose tool asks its client on the stream of its own call, and waits for the answer."""

import asyncio
import json
import secrets

from starlette.responses import JSONResponse, Response, StreamingResponse


class AskingServer:
    """State of the server.

    Attributes:
        open_questions: Calls that wait for an answer.
    """

    def __init__(self):
        self.answers = {}
        self.open_questions = 0

    async def handle(self, request):
        message = json.loads(await request.body() or b"{}")
        session = request.headers.get("mcp-session-id", "")
        if request.method != "POST":
            return Response(status_code=405)
        if message.get("method") == "initialize":
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "asking", "version": "1"},
            }
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            return JSONResponse(answer, headers={"Mcp-Session-Id": secrets.token_hex(8)})
        if "method" not in message:
            self.answers[session, message["id"]].set()
            return Response(status_code=202)
        if message["method"] == "tools/call":
            return StreamingResponse(self.call(session, message), media_type="text/event-stream")
        if "id" not in message:
            return Response(status_code=202)
        error = {"code": -32601, "message": "no"}
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error})

    async def call(self, session, message):
        text = message["params"]["arguments"]["text"]
        answered = self.answers[session, text] = asyncio.Event()
        self.open_questions += 1
        try:
            params = {"message": text, "requestedSchema": {"type": "object", "properties": {}}}
            yield event({"id": text, "method": "elicitation/create", "params": params})
            await answered.wait()
            result = {"content": [{"type": "text", "text": text}]}
            yield event({"id": message["id"], "result": result})
        finally:
            self.open_questions -= 1


def event(members):
    return f"data: {json.dumps({'jsonrpc': '2.0', **members})}\n\n"
