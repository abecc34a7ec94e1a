"""The base of every variant, and what serves one over stdio or HTTP. Standard library only."""

import contextlib
import inspect
import json
import sys
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Refused(Exception):
    """A tool's own error."""


class Variant:
    """Base: no tools, no resources. `leaky` selects the mutant, `session` is the caller's."""

    classes = ()
    schemas = {}
    resources = ()
    templates = ()
    prompts = {}
    silent = False
    http = False
    threads = False
    env = {}
    args = ()
    files = {}

    def __init__(self, leaky):
        self.leaky = leaky
        self.local = threading.local()
        self.sent = []

    @property
    def session(self):
        return getattr(self.local, "session", "")

    @property
    def meta(self):
        return getattr(self.local, "meta", None) or {}

    @property
    def headers(self):
        return getattr(self.local, "headers", {})

    def notify(self, method, params, sessions=None):
        """Queue a notification for all or for some sessions."""
        self.sent.append((method, params, sessions))

    def read(self, uri):
        raise Refused(f"no resource {uri}")

    def describe(self, name):
        return f"The tool {name}."

    def listed(self):
        return list(self.resources)

    def prompt(self, name, arguments):
        raise Refused(f"no prompt {name}")

    def joined(self):
        """Take a new session, or refuse it."""

    def ended(self, session):
        """Forget a session."""


def called(headers, url="http://api.acme.test/me", body=None):
    """Call a service and return its answer; with a body by POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data=data, headers={**headers, "Accept": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError as error:
        raise Refused(str(error)) from error


_BASE = set(dir(Variant)) | {"made", "fresh", "shown"}


def tools_of(variant):
    """Return name -> method."""
    members = inspect.getmembers(variant, inspect.ismethod)
    return {
        name: m
        for name, m in members
        if not name.startswith("_") and name not in _BASE and name != "subscribe"
    }


def answer(variant, message):
    """Return the result of a request, or an error."""
    method, params = message["method"], message.get("params") or {}
    variant.local.meta = params.get("_meta")
    tools = tools_of(variant)
    if method == "initialize":
        variant.joined()
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {
                **({"tools": {}} if tools else {}),
                **({"prompts": {}} if variant.prompts else {}),
                "resources": {"subscribe": True},
                "logging": {},
            },
            "serverInfo": {"name": "mutant", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [_described(variant, name, tool) for name, tool in tools.items()]}
    if method == "tools/call":
        try:
            text = tools[params["name"]](**(params.get("arguments") or {}))
        except Refused as error:
            return {"content": [{"type": "text", "text": str(error)}], "isError": True}
        return {"content": [{"type": "text", "text": text}]}
    if method == "resources/list":
        return {"resources": [{"uri": uri, "name": uri} for uri in variant.listed()]}
    if method == "resources/templates/list":
        return {
            "resourceTemplates": [{"uriTemplate": one, "name": one} for one in variant.templates]
        }
    if method == "resources/read":
        return {"contents": [{"uri": params["uri"], "text": variant.read(params["uri"])}]}
    if method == "prompts/list":
        listed = variant.prompts.items()
        return {
            "prompts": [
                {"name": name, "arguments": [{"name": one, "required": True} for one in names]}
                for name, names in listed
            ]
        }
    if method == "prompts/get":
        text = variant.prompt(params["name"], params.get("arguments") or {})
        return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}
    if method == "resources/subscribe" and hasattr(variant, "subscribe"):
        variant.subscribe(params["uri"])
    return {}


def _described(variant, name, tool):
    parameters = inspect.signature(tool).parameters
    known = variant.schemas.get(name, {})
    properties = {p: known.get(p, {"type": "string"}) for p in parameters}
    required = [p for p, one in parameters.items() if one.default is one.empty]
    schema = {"type": "object", "properties": properties, "required": required}
    if variant.silent:
        schema = {"type": "object"}
    return {"name": name, "description": variant.describe(name), "inputSchema": schema}


def handled(variant, message):
    """Return the JSON-RPC answer to a request."""
    try:
        return {"jsonrpc": "2.0", "id": message["id"], "result": answer(variant, message)}
    except Exception as error:
        told = {"code": -32000, "message": f"{type(error).__name__}: {error}"}
        return {"jsonrpc": "2.0", "id": message["id"], "error": told}


def serve_stdio(variant):
    lock = threading.Lock()

    def say(message):
        with lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def act(message):
        result = handled(variant, message)
        while variant.sent:
            method, params, _ = variant.sent.pop(0)
            say({"jsonrpc": "2.0", "method": method, "params": params})
        say(result)

    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        if variant.threads:
            threading.Thread(target=act, args=(message,), daemon=True).start()
        else:
            act(message)


def serve_http(variant, port):
    streams = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            session = self.headers.get("Mcp-Session-Id", "")
            if message["method"] == "initialize":
                session = uuid.uuid4().hex
            variant.local.session = session
            variant.local.headers = self.headers
            variant.local.request = message.get("id")
            if "id" not in message:
                self._send(202, b"", session)
                return
            body = json.dumps(handled(variant, message)).encode()
            while variant.sent:
                method, params, sessions = variant.sent.pop(0)
                event = {"jsonrpc": "2.0", "method": method, "params": params}
                for name, stream in list(streams.items()):
                    if sessions is None or name in sessions:
                        with contextlib.suppress(OSError):
                            stream.write(f"data: {json.dumps(event)}\n\n".encode())
                            stream.flush()
            self._send(200, body, session)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            streams[self.headers.get("Mcp-Session-Id", "")] = self.wfile
            while not self.wfile.closed:
                time.sleep(0.2)

        def do_DELETE(self):
            session = self.headers.get("Mcp-Session-Id", "")
            streams.pop(session, None)
            variant.ended(session)
            self._send(200, b"", session)

        def _send(self, status, body, session):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Mcp-Session-Id", session)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()
