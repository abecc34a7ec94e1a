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
