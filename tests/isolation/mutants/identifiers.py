"""Handles of another user work."""

import json
import uuid

from .server import Refused, Variant


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
