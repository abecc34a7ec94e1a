"""A server that takes longer than any check has: for the time budget, of no leak class."""

import time

from .server import Variant


class Slow(Variant):
    """Two quick tools with one memory for all, or without, and many slow ones."""

    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.kept = []

    def add_note(self, text):
        if self.leaky:
            self.kept.append(text)
        return "kept"

    def list_notes(self):
        return f"{len(self.kept)} notes: {self.kept}"


def _ponder(_self, text):
    time.sleep(1)
    return f"pondered {text}"


for _number in range(40):
    setattr(Slow, f"ponder_{_number}", _ponder)
