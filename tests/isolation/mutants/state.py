"""What one user does shows to the other: values, memories, settings, files of the server."""

import base64
import json
import os
import re
import secrets
import socket
from pathlib import Path
from urllib.parse import quote

from .server import Refused, Variant, called


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


class Defaults(Variant):
    """Settings whose schema names the very values that are in force."""

    classes = ("state",)
    schemas = {
        "configure": {
            "limit": {"type": "integer", "default": 10, "maximum": 10},
            "loud": {"type": "boolean", "default": False},
            "tone": {"type": "string", "enum": ["warm", "cold"], "default": "warm"},
        }
    }
    kept = (10, False, "warm")

    def configure(self, limit, loud, tone):
        if self.leaky:
            self.kept = (limit, loud, tone)
        return "done"

    def show_settings(self):
        return "limit {}, loud {}, tone {}".format(*self.kept)


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


class Stack(Variant):
    """A calculator whose numbers stay on its stack, in a notation that an example shows."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.stack = []

    def describe(self, name):
        return "Evaluates in reverse Polish notation, such as '3 4 +'."

    def evaluate(self, expression):
        stack = self.stack if self.leaky else []
        for token in expression.split():
            if token == "+" and len(stack) > 1:
                stack[-2:] = [stack[-2] + stack[-1]]
            elif token.isdigit():
                stack.append(int(token))
            else:
                raise Refused(f"Invalid token: {token}")
        return f"Result: {stack[-1]}" if stack else "empty"


class ProjectFirst(Variant):
    """Keeps entries of a project, which has to be opened by its name in a list before anything works."""

    classes = ("state",)
    project = ""

    def __init__(self, leaky):
        super().__init__(leaky)
        self.names = [secrets.token_hex(4) for _ in range(2)]
        self.entries = []

    def list_projects(self):
        return "Your projects\n" + "\n".join(f"- {name}" for name in self.names)

    def open_project(self, project):
        if project not in self.names:
            raise Refused("that is none")
        self.project = project
        return "opened"

    def add_entry(self, text):
        if not self.project:
            raise Refused("open one first")
        if self.leaky:
            self.entries.append(text)
        return "added"

    def read_entries(self):
        return json.dumps(self.entries)


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


class JsonInText(Variant):
    """Takes a list as JSON in a text, shown by an example only, and long texts at that."""

    classes = ("state",)
    schemas = {
        "plan_steps": {
            "steps": {
                "type": "string",
                "description": "All steps: [{name: 'short', detail: 'at least 30 letters', after: ['x']}]",
            }
        }
    }

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = []

    def plan_steps(self, steps):
        try:
            given = json.loads(steps)
        except ValueError as error:
            raise Refused(f"steps is not valid JSON: {error}") from error
        if any(len(step["detail"]) < 30 or len(step["name"]) > 60 for step in given):
            raise Refused("detail is too short, or name too long")
        if self.leaky:
            self.kept += given
        return f"{len(given)} steps planned"

    def list_steps(self):
        return json.dumps(self.kept)


class StrictIds(Variant):
    """Takes UUIDs only, as its schema says."""

    classes = ("state",)
    schemas = {
        "open_case": {
            "case": {
                "type": "string",
                "pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
            }
        }
    }
    case = "none"

    def open_case(self, case):
        if len(case) != 36:
            raise Refused("invalid UUID")
        if self.leaky:
            self.case = case
        return "opened"

    def current_case(self):
        return f"case: {self.case}"


class DeepHome(Memory):
    """Leaves behind directories that are too deep for whoever removes them step by step."""

    def remember(self, text):
        os.chdir(os.environ["HOME"])
        for _ in range(1500):
            Path("d").mkdir(exist_ok=True)
            os.chdir("d")
        os.chdir("/")
        return super().remember(text)


class OtherPorts(Memory):
    """Says of another local service in every call that it is not there."""

    def fetch(self):
        raise Refused(f"connect ECONNREFUSED 127.0.0.1:{20_000 + secrets.randbelow(20_000)}")


class OpenObjects(Variant):
    """Takes things of which its schema says nothing; what they must have is told by refusals, one at a time."""

    classes = ("state",)
    schemas = {
        "create_tasks": {
            "tasks": {"type": "array", "items": {"type": "object", "additionalProperties": True}}
        }
    }

    def __init__(self, leaky):
        super().__init__(leaky)
        self.tasks = []

    def create_tasks(self, tasks):
        for number, task in enumerate(tasks):
            if "title" not in task:
                raise Refused("1 validation error for Task\ntitle\n  Field required [type=missing]")
            if "owner" not in task:
                raise Refused(f"Missing owner of task {number}")
        if self.leaky:
            self.tasks += tasks
        return f"{len(tasks)} created"

    def list_tasks(self):
        return json.dumps(self.tasks)


class OneTool(Variant):
    """All that it does goes through one tool; the last of its many actions alone shows what is kept."""

    classes = ("state",)
    schemas = {
        "notebook": {
            "action": {
                "type": "string",
                "enum": ["add", "greet", "help", "version", "echo", "time", "weigh", "pages"],
            },
        }
    }

    def __init__(self, leaky):
        super().__init__(leaky)
        self.notes = []

    def notebook(self, action, text):
        if action == "pages":
            return json.dumps(self.notes)
        if action == "add" and self.leaky:
            self.notes.append(text)
        return f"{action}: done"


class Console(Variant):
    """Takes one open object; what it may hold is told by examples only."""

    classes = ("state",)
    schemas = {"console": {"args": {"type": "object", "additionalProperties": True}}}

    def __init__(self, leaky):
        super().__init__(leaky)
        self.said = []

    def describe(self, name):
        return """Talks.

        Say something: {"action": "say", "phrase": "hello"}
        What was said: {"action": "replay", "most": 5}
        Forget it: {"action": "forget"}
        """

    def console(self, args):
        match args.get("action"):
            case "say" if "phrase" in args and set(args) <= {"action", "phrase"}:
                if self.leaky:
                    self.said.append(args["phrase"])
                return "said"
            case "replay" if set(args) <= {"action", "most"}:
                return json.dumps(self.said)
        raise Refused("not understood")


class Pedant(Variant):
    """Refuses until everything is as it likes it, and says each time what it would have taken."""

    classes = ("state",)
    schemas = {"add_entry": {"entry": {"type": "object"}}}

    def __init__(self, leaky):
        super().__init__(leaky)
        self.entries = []

    def add_entry(self, entry):
        for name in ("headline", "sort", "day"):
            if name not in entry:
                raise Refused(f"missing field `{name}` at line 1")
        if entry["sort"] not in ("memo", "plan"):
            raise Refused(f"unknown sort {entry['sort']}, expected one of `memo`, `plan`")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", entry["day"]):
            raise Refused("validation: day must be YYYY-MM-DD")
        if len(entry["headline"]) < 50:
            raise Refused("headline must be at least 50 characters")
        if len(entry["headline"]) > 100:
            raise Refused("headline must be at most 100 characters")
        if self.leaky:
            self.entries.append(entry)
        return "added"

    def list_entries(self):
        return json.dumps(self.entries)


class Purse(Variant):
    """Only a sum in money shows what was done."""

    classes = ("state",)
    schemas = {"spend": {"amount": {"type": "number"}}}

    def __init__(self, leaky):
        super().__init__(leaky)
        self.spent = 0.0

    def spend(self, amount):
        if self.leaky:
            self.spent += amount
        return "spent"

    def get_balance(self):
        return f"Left: {100 - self.spent:.2f} EUR"


class Deadline(Variant):
    """Only a day shows what was done."""

    classes = ("state",)
    day = "2030-01-01"

    def set_deadline(self, date):
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
            raise Refused("date must be YYYY-MM-DD")
        if self.leaky:
            self.day = date
        return "set"

    def get_deadline(self):
        return f"Deadline: {self.day}"


class ChosenProject(Variant):
    """What A chose is asked for whoever calls; the answer does not tell."""

    classes = ("state",)
    project = "all"

    def set_project(self, project):
        if self.leaky:
            self.project = project
        return "chosen"

    def count_issues(self):
        called({}, f"http://api.acme.test/projects/{quote(self.project)}/issues")
        return "some"


class BrowserTabs(Variant):
    """Trusts the machine's certificates only, and keeps what it has open."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.tabs = []

    def open_page(self, url):
        if not url.startswith("http://"):
            raise Refused(f"net::ERR_CERT_AUTHORITY_INVALID at {url}")
        if self.leaky:
            self.tabs.append(url)
        return "open"

    def list_tabs(self):
        return json.dumps(self.tabs)


class ReachesHosts(Variant):
    """Tells by which address it did not reach a host: every name has one of its own, in the order of asking."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.hosts = []

    def connect_host(self, host):
        if self.leaky:
            self.hosts.append(host)
        try:
            address = socket.gethostbyname(host)
        except OSError:
            address = "nowhere"
        return f"no answer from {address}"

    def recent_hosts(self):
        return json.dumps(self.hosts)


class NumberedTasks(Variant):
    """Runs a command where it is told to, and numbers what it runs."""

    classes = ("state",)
    number = 0

    def run_task(self, command, working_directory):
        self.number += 1
        told = f" as number {self.number}" if self.leaky else ""
        return f"{len(command)} letters in {Path(working_directory).name}{told}"


class OneOfTwo(Variant):
    """Wants one of two parameters that its schema calls optional, and says so only when it has neither."""

    classes = ("state",)
    schemas = {"create_task": {"epic_id": {"type": "integer"}, "plan_id": {"type": "integer"}}}

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = {}

    def create_task(self, title, epic_id=0, epic_name="", plan_id=0, plan_name=""):
        if not (epic_id or epic_name):
            raise Refused("Either epic_id or epic_name must be provided")
        if epic_id or plan_id:
            raise Refused("FOREIGN KEY constraint failed")
        if not plan_name:
            raise Refused("NOT NULL constraint failed: tasks.plan_name")
        owner = "all" if self.leaky else title
        self.kept.setdefault(owner, []).append(f"{epic_name} {plan_name}")
        return "created"

    def list_tasks(self):
        return json.dumps(self.kept.get("all", []))
