"""State over HTTP: kept for all sessions, or handed from one to the next."""

import json

from .server import Refused, Variant
from .state import Memory


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


class QuotesNames(Variant):
    """Over HTTP: refuses a name at first, quotes it, and takes it the next time, from whomever."""

    classes = ("state",)
    http = True

    def __init__(self, leaky):
        super().__init__(leaky)
        self.announced = set()
        self.by_session = {}

    def _mine(self):
        return self.by_session.setdefault("" if self.leaky else self.session, [])

    def add_branch(self, branch):
        if branch not in self.announced:
            self.announced.add(branch)
            raise Refused(f"error: '{branch}' is new, say it again")
        self._mine().append(branch)
        return "added"

    def list_branches(self):
        return json.dumps([{"name": "main"}, *({"name": one} for one in self._mine())])

    def show_neighbours(self, name):
        return f"beside {name}: {self._mine()}"
