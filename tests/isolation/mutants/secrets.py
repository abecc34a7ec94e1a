"""The environment can be read through a tool."""

import json
import os

from .server import Refused, Variant


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


class EnvironmentOfProgram(Variant):
    """Runs one program, whose name and arguments are parameters of their own."""

    classes = ("secret",)
    schemas = {"run": {"arguments": {"type": "array", "items": {"type": "string"}}}}

    def run(self, command, arguments):
        if command == "pwd":
            return "/"
        if command != "env" or arguments:
            raise Refused("no such program")
        return json.dumps(dict(os.environ)) if self.leaky else "LANG=C"


class EnvironmentInResource(Variant):
    classes = ("secret",)
    resources = ("info://environment",)

    def ping(self):
        return "pong"

    def read(self, uri):
        return json.dumps(dict(os.environ)) if self.leaky else "nothing"
