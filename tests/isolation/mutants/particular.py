"""A server that cannot be made to keep anything: it wants what nobody guesses."""

import json

from .history import PageCache
from .server import Refused, Variant, called
from .tokens import FailOpen


class Particular(Variant):
    classes = ("state",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.orders = []

    def create_order(self, article):
        if article != "K-2207/b":
            raise Refused("no such article")
        self.orders.append(article)
        return "ordered"

    def list_orders(self):
        return json.dumps(self.orders)

    def update_price(self, article):
        return f"the price of {len(article)} letters is known"

    def set_currency(self, name):
        return f"{len(name)} letters"


class ParticularAndPages(Particular, PageCache):
    """Beside a cache of public pages, which is no harm."""


class TokenOfAnotherName(Variant):
    """Calls its service with the token of a variable that nobody set, or with none."""

    env = {"ACME_TOKEN": "acme_abcdefghijkl"}

    def fetch_profile(self):
        return called({"Authorization": "Bearer undefined"} if self.leaky else {})


class WithoutItsEngine(Variant):
    """Tells the first failure of its process at length and the next ones in short, or keeps notes as well."""

    def __init__(self, leaky):
        super().__init__(leaky)
        self.tried = False
        self.seen = []

    def solve(self, name):
        self.seen.append(name)
        first, self.tried = not self.tried, True
        raise Refused("engine not started" + (": no permission to start it" if first else ""))

    def draw(self, name):
        return self.solve(name)

    def count_letters(self, text):
        return f"{len(text)} letters" + (
            f", {self.seen[0]} before" if self.leaky and self.seen else ""
        )


class ParticularElsewhere(FailOpen):
    """The same at a service, where each caller's own token tells whose the orders are."""

    def create_order(self, article):
        self.fetch_profile()
        if article != "K-2207/b":
            raise Refused("no such article")
        return "ordered"

    def list_orders(self):
        return self.fetch_profile()

    def update_price(self, article):
        return f"the price of {len(article)} letters is known"

    def set_currency(self, name):
        return f"{len(name)} letters"


class ParticularBeforeItAsks(ParticularElsewhere):
    """Refuses before it asks the service; all other tools ask it."""

    def create_order(self, article):
        raise Refused("no such article")

    def update_price(self, article):
        return self.fetch_profile()

    def set_currency(self, name):
        return self.fetch_profile()

    def get_project_of_path(self, project_path):
        """Ask for a project that is told by what looks like a path of a file."""
        return self.fetch_profile()


class SaysTheSame(Variant):
    """Refuses in words that the check does not know, as a success."""

    def create_order(self, article):
        return "Zugang fehlt, bitte anmelden"

    def list_orders(self):
        return self.create_order("")

    def update_price(self, article):
        return self.create_order(article)

    def count_letters(self, text):
        return f"{len(text)} letters"


class WantsTheRealService(Variant):
    """Asks a service without a credential, and cannot read what a stand-in answers."""

    def get_module(self, name):
        called({})
        raise Refused("cannot read that")

    def list_modules(self):
        return self.get_module("")
