"""Events reach the wrong user."""

from .server import Variant


class LateLog(Variant):
    """The next call is told what the last one was given."""

    classes = ("notification",)
    last = ""

    def post_message(self, text):
        if self.last:
            self.notify("notifications/message", {"level": "info", "data": self.last})
        self.last = text if self.leaky else ""
        return "posted"


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
