"""Answers are mixed up only when both users call at once."""

import random
import time

from .server import Variant


class GlobalEcho(Variant):
    """One variable for all calls in flight."""

    classes = ("race",)
    threads = True
    text = ""

    def echo(self, text):
        self.text = mine = text
        time.sleep(0.03)
        return self.text if self.leaky else mine


class Dice(GlobalEcho):
    """Beside it, answers out of few: the same one twice is no mix-up."""

    schemas = {"roll": {"sides": {"type": "integer"}}}

    def roll(self, sides):
        return f"a {random.randint(1, 2)} of {bool(sides)}"


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
