"""Handles of another user work."""

import json
import uuid
from pathlib import Path

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


class Games(Variant):
    """What A made says nothing of A: whoever knows its id may play on."""

    classes = ("identifier",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.games = {}

    def create_game(self):
        game = uuid.uuid4().hex[:8]
        self.games[game] = 0
        return f"game_id: {game}"

    def play(self, game_id):
        if self.leaky:
            if game_id not in self.games:
                raise Refused("no such game")
        elif len(game_id) != 8:  # every such id is a game that begins anew
            raise Refused("no id of a game")
        return "played"


class BareIds(RandomIds):
    """Tells an id and nothing else."""

    def create_ticket(self, content):
        return json.loads(super().create_ticket(content))["ticketId"]


class Templates(RandomIds):
    """No tool shows a ticket: a resource does, whose address is made of its id."""

    templates = ("tickets://{ticketId}/text",)
    get_ticket = None

    def read(self, uri):
        ticket = uri.removeprefix("tickets://").removesuffix("/text")
        if not self.leaky or ticket not in self.tickets:
            raise Refused("no such ticket of yours")
        return self.tickets[ticket]


class TemplatesOfFiles(Variant):
    """Any file that its user may read, by a resource."""

    classes = ("filesystem",)
    templates = ("document://{+path}",)

    def count_letters(self, text):
        return str(len(text))

    def read(self, uri):
        if not self.leaky:
            raise Refused("no such document")
        try:
            return Path(uri.removeprefix("document://")).read_text()
        except OSError as error:
            raise Refused(str(error)) from error
