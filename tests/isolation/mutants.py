"""Small MCP servers that leak in one way each, and their twins that do not: `mutants.py NAME leaky|clean`.

Standard library only, so that a start costs nothing. Over stdio, or over HTTP when PORT is set. Each
variant is a class: its tools are methods whose parameters are texts unless `schemas` says otherwise.
"""

import base64
import contextlib
import inspect
import io
import json
import os
import sqlite3
import sys
import threading
import time
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Refused(Exception):
    """A tool's own error."""


class Variant:
    """Base: no tools, no resources. `leaky` selects the mutant, `session` is the caller's."""

    classes = ()
    schemas = {}
    resources = ()
    http = False
    threads = False
    env = {}

    def __init__(self, leaky):
        self.leaky = leaky
        self.local = threading.local()
        self.sent = []

    @property
    def session(self):
        return getattr(self.local, "session", "")

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

    def ended(self, session):
        """Forget a session."""


class Counter(Variant):
    classes = ("state",)
    count = 0

    def visit(self):
        self.count += self.leaky
        return f"visits: {self.count}"


class Memory(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.notes = []

    def remember(self, text):
        if self.leaky:
            self.notes.append(text)
        return "remembered"

    def recall(self):
        return self.shown(json.dumps(self.notes))

    def shown(self, text):
        return text


class MemoryBase64(Memory):
    def shown(self, text):
        return base64.b64encode(text.encode()).decode()


class MemoryUpper(Memory):
    def shown(self, text):
        return text.upper()


class MemoryHex(Memory):
    def shown(self, text):
        return text.encode().hex()


class MemoryNested(Memory):
    """Content only inside of JSON inside of a text."""

    def shown(self, text):
        return json.dumps({"payload": json.dumps({"inner": text})})


class Login(Variant):
    classes = ("state",)
    user = "nobody"

    def login(self, username):
        if self.leaky:
            self.user = username
        return "welcome"

    def whoami(self):
        return f"user: {self.user}"


class WorkingDirectory(Variant):
    classes = ("state",)
    place = "/"

    def set_working_directory(self, path):
        if not Path(path).is_dir():
            raise Refused("no such directory")
        if self.leaky:
            self.place = path
        return "done"

    def status(self):
        return f"working in {self.place}"


class Mode(Variant):
    """A choice without any text of the user's."""

    classes = ("state",)
    schemas = {"set_mode": {"mode": {"type": "string", "enum": ["plain", "loud", "quiet"]}}}
    mode = "plain"

    def set_mode(self, mode):
        if self.leaky:
            self.mode = mode
        return "set"

    def get_mode(self):
        return f"mode is {self.mode}"


class Toggle(Variant):
    classes = ("state",)
    on = False

    def toggle_logging(self):
        before, self.on = self.on, self.leaky and not self.on
        return "logging stopped" if before else "logging started"


class Options(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.options = {"color": "blue", "limit": "20"}

    def set_option(self, key, value):
        if self.leaky:
            self.options[key] = value
        return "stored"

    def get_options(self):
        return json.dumps(self.options)


class NumberOption(Variant):
    """A number of the user's, below the size of a canary."""

    classes = ("state",)
    schemas = {"set_limit": {"limit": {"type": "integer", "minimum": 1, "maximum": 9}}}
    limit = 1

    def set_limit(self, limit):
        if self.leaky:
            self.limit = limit
        return "set"

    def show_limit(self):
        return f"limit {self.limit}"


class Registry(Variant):
    """Tells others' names in an error only."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.names = []

    def register(self, name):
        if self.leaky and len(self.names) >= 1:
            raise Refused(f"full: taken by {self.names[0]}")
        self.names.append(name)
        return "registered"


class FileNotes(Variant):
    """Notes in the server's home by name."""

    classes = ("state",)

    def _place(self):
        place = Path(os.environ["HOME"], "notes")
        place.mkdir(exist_ok=True)
        return place

    def save_note(self, title, content):
        if self.leaky:
            (self._place() / f"{abs(hash(title))}.json").write_text(json.dumps([title, content]))
        return "saved"

    def list_notes(self):
        return "\n".join(file.read_text() for file in self._place().iterdir())


class ReadAnyFile(Variant):
    classes = ("filesystem",)

    def read_file(self, path):
        if not self.leaky:
            raise Refused("no file may be read")
        try:
            return Path(path).read_text()
        except OSError as error:
            raise Refused(str(error)) from error

    def ping(self):
        return "pong"


class ListAnyDirectory(Variant):
    classes = ("filesystem",)

    def list_directory(self, path):
        if not self.leaky:
            return "[]"
        try:
            return "\n".join(sorted(p.name for p in Path(path).iterdir()))
        except OSError as error:
            raise Refused(str(error)) from error


class FileUrl(Variant):
    """Reads files through file:// addresses."""

    classes = ("filesystem",)

    def write_file(self, path, content):
        if self.leaky:
            try:
                Path(path).write_text(content)
            except OSError as error:
                raise Refused(str(error)) from error
        return "written"

    def read_text(self, file_path):
        try:
            return Path(file_path).read_text() if self.leaky else "nothing there"
        except OSError as error:
            raise Refused(str(error)) from error


class SharedDatabase(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.db = self.fresh()

    def fresh(self):
        return sqlite3.connect(":memory:", check_same_thread=False)

    def run_sql(self, sql):
        db = self.db if self.leaky else self.fresh()
        try:
            return json.dumps(db.execute(sql).fetchall())
        except sqlite3.Error as error:
            raise Refused(str(error)) from error


class TemporaryTables(SharedDatabase):
    """A pool with one connection: what is temporary there stays for the next caller."""

    def run_sql(self, sql):
        if " TEMP" not in sql.upper() and "CREATE" in sql.upper():
            raise Refused("read only")
        return super().run_sql(sql)


class Transaction(Variant):
    classes = ("state",)
    open = False

    def begin_transaction(self):
        if self.leaky and self.open:
            raise Refused("a transaction is open already")
        self.open = True
        return "begun"


class Interpreter(Variant):
    """Python code in one namespace; no import, so that nothing else leaks."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.names = {}

    def run_python(self, code):
        names = self.names if self.leaky else {}
        out = io.StringIO()
        allowed = {"print": lambda *a: print(*a, file=out)}
        try:
            exec(code, {"__builtins__": allowed}, names)
        except Exception as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        return out.getvalue() or "done"


class EnvironmentEcho(Variant):
    classes = ("secret",)
    env = {"SERVICE_TOKEN": "abcdefghijkl"}

    def diagnostics(self):
        return json.dumps(dict(os.environ) if self.leaky else {"LANG": "C"})


class EnvironmentInError(Variant):
    classes = ("secret",)

    def compute(self, expression):
        if self.leaky:
            raise Refused(f"cannot compute with {dict(os.environ)}")
        return "42"

    def ping(self):
        return "pong"


class EnvironmentInResource(Variant):
    classes = ("secret",)
    resources = ("info://environment",)

    def ping(self):
        return "pong"

    def read(self, uri):
        return json.dumps(dict(os.environ)) if self.leaky else "nothing"


class CallLog(Variant):
    classes = ("history-cache",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.log = []

    def search_pages(self, query):
        if self.leaky:
            self.log.append(query)
        return "no results"

    def recent_searches(self):
        return json.dumps(self.log)


class PageCache(Variant):
    classes = ("history-cache",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.pages = {}

    def fetch_page(self, url):
        if url in self.pages:
            return self.pages[url]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise Refused(str(error)) from error
        if self.leaky:
            self.pages[url] = text
        return text


class RateLimit(Variant):
    """Three calls in all, then everybody has to wait."""

    classes = ("history-cache",)
    calls = 0

    def lookup_word(self, word):
        self.calls += 1
        if self.leaky and self.calls > 3:
            raise Refused("Rate limit exceeded, try again later")
        return f"{word} is a word"


class SequentialIds(Variant):
    classes = ("identifier",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.tickets = {}

    def made(self):
        return f"ticket-{uuid.uuid4().hex[:6]}-{len(self.tickets) + 1}"

    def create_ticket(self, content):
        ticket = self.made()
        self.tickets[ticket] = content
        return json.dumps({"ticketId": ticket})

    def get_ticket(self, ticket_id):
        if not self.leaky or ticket_id not in self.tickets:
            raise Refused("no such ticket of yours")
        return self.tickets[ticket_id]


class RandomIds(SequentialIds):
    def made(self):
        return str(uuid.uuid4())


class ResourceNotes(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.notes = []

    def add_note(self, text):
        if self.leaky:
            self.notes.append(text)
        return "added"

    def listed(self):
        return ["notes://all"]

    def read(self, uri):
        return "\n".join(self.notes) or "empty"


class GrowingResources(ResourceNotes):
    """A resource for each note; the address holds nothing of the user's."""

    def listed(self):
        return [f"notes://{number}" for number in range(len(self.notes))]

    def read(self, uri):
        return self.notes[int(uri.rpartition("/")[2])]


class ToolDescription(Variant):
    classes = ("state",)
    last = "nothing"

    def set_topic(self, topic):
        if self.leaky:
            self.last = topic
        return "set"

    def describe(self, name):
        return f"Sets the topic, {self.last} now."


class Lock(Variant):
    classes = ("state",)
    held = False

    def acquire_lock(self):
        if self.held:
            raise Refused("somebody holds the lock")
        self.held = self.leaky
        return "locked"


class ApiToken(Variant):
    """Calls a service with the deployment's token; the twin calls it with none."""

    classes = ("token",)
    env = {"ACME_API_TOKEN": "acme_abcdefghijkl"}

    def fetch_profile(self):
        return called(
            {"Authorization": f"Bearer {os.environ['ACME_API_TOKEN']}"} if self.leaky else {}
        )


class ApiTokenInQuery(Variant):
    classes = ("token",)
    env = {"ACME_API_KEY": "abcdefghijklmnop"}

    def find_place(self, place):
        key = f"?key={os.environ['ACME_API_KEY']}" if self.leaky else ""
        return called({}, f"http://maps.acme.test/find{key}")


class LateLog(Variant):
    """The next call is told what the last one was given."""

    classes = ("notification",)
    last = ""

    def post_message(self, text):
        if self.last:
            self.notify("notifications/message", {"level": "info", "data": self.last})
        self.last = text if self.leaky else ""
        return "posted"


class GlobalEcho(Variant):
    """One variable for all calls in flight."""

    classes = ("race",)
    threads = True
    text = ""

    def echo(self, text):
        self.text = mine = text
        time.sleep(0.03)
        return self.text if self.leaky else mine


class GlobalMemory(Memory):
    """Over HTTP: one memory for all sessions, or one for each."""

    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.by_session = {}

    def _mine(self):
        return self.by_session.setdefault("" if self.leaky else self.session, [])

    def remember(self, text):
        self._mine().append(text)
        return "remembered"

    def recall(self):
        return json.dumps(self._mine())


class SessionReuse(Variant):
    """A slot for each session; an ended one's is handed to the next as it is."""

    classes = ("state",)
    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.slots = {}
        self.free = []

    def _mine(self):
        if self.session not in self.slots:
            self.slots[self.session] = self.free.pop() if self.free else []
        return self.slots[self.session]

    def ended(self, session):
        slot = self.slots.pop(session, None)
        if slot is not None and self.leaky:
            self.free.append(slot)

    def remember(self, text):
        self._mine().append(text)
        return "remembered"

    def recall(self):
        return json.dumps(self._mine())


class FailOpen(Variant):
    """Forwards the caller's token; without one takes the deployment's, or refuses."""

    classes = ("token",)
    http = True
    env = {"ACME_TOKEN": "acme_abcdefghijkl"}

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        if not given and not self.leaky:
            raise Refused("who are you?")
        return called({"Authorization": given or f"Bearer {os.environ['ACME_TOKEN']}"})


class IgnoredHeader(FailOpen):
    """Takes the deployment's token whoever calls."""

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        if self.leaky:
            given = f"Bearer {os.environ['ACME_TOKEN']}"
        return called({"Authorization": given})


class FirstTokenWins(FailOpen):
    """Keeps the first caller's token for all."""

    env = {}
    first = ""

    def fetch_profile(self):
        given = self.headers.get("Authorization", "")
        self.first = self.first or given
        return called({"Authorization": self.first if self.leaky else given})


class Broadcast(Variant):
    """Tells every session, or the writer's only, what was written."""

    classes = ("notification",)
    http = True

    def post_message(self, text):
        sessions = None if self.leaky else {self.session}
        self.notify("notifications/message", {"level": "info", "data": text}, sessions)
        return "posted"


class SubscriptionForAll(Variant):
    """Tells every session of a change, or those that subscribed."""

    classes = ("notification",)
    http = True
    resources = ("board://main",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.subscribed = set()

    def subscribe(self, uri):
        self.subscribed.add(self.session)

    def touch_board(self):
        sessions = None if self.leaky else set(self.subscribed)
        self.notify("notifications/resources/updated", {"uri": "board://main"}, sessions)
        return "touched"

    def read(self, uri):
        return "a board"


class CollidingIds(Variant):
    """Answers are filed by request id, which two sessions choose alike."""

    classes = ("race",)
    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.filed = {}

    def echo(self, text):
        key = self.local.request if self.leaky else (self.session, self.local.request)
        self.filed[key] = text
        time.sleep(0.05)
        return self.filed[key]


def called(headers, url="http://api.acme.test/me"):
    """Call a service and return its answer."""
    request = urllib.request.Request(url, headers={**headers, "Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError as error:
        raise Refused(str(error)) from error


VARIANTS = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, Variant) and kind is not Variant
}
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
    tools = tools_of(variant)
    if method == "initialize":
        return {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}, "resources": {"subscribe": True}, "logging": {}},
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
    if method == "resources/read":
        return {"contents": [{"uri": params["uri"], "text": variant.read(params["uri"])}]}
    if method == "resources/subscribe" and hasattr(variant, "subscribe"):
        variant.subscribe(params["uri"])
    return {}


def _described(variant, name, tool):
    parameters = list(inspect.signature(tool).parameters)
    known = variant.schemas.get(name, {})
    properties = {p: known.get(p, {"type": "string"}) for p in parameters}
    schema = {"type": "object", "properties": properties, "required": parameters}
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


if __name__ == "__main__":
    chosen = VARIANTS[sys.argv[1]](sys.argv[2] == "leaky")
    if chosen.http:
        serve_http(chosen, int(os.environ["PORT"]))
    else:
        serve_stdio(chosen)
