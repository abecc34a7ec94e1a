"""One user can tell what the other did: logs, caches, limits."""

import json
import urllib.request

from .server import Refused, Variant


class CallLog(Variant):
    classes = ("history-cache",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.log = []

    def search_pages(self, query):
        if self.leaky:
            self.log.append(query)
        return "no results"

    def recent_searches(self):
        return json.dumps(self.log)


class PageCache(Variant):
    classes = ("history-cache",)

    def __init__(self, leaky):
        super().__init__(leaky)
        self.pages = {}

    def fetch_page(self, url):
        if url in self.pages:
            return self.pages[url]
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise Refused(str(error)) from error
        if self.leaky:
            self.pages[url] = text
        return text


class RateLimit(Variant):
    """Three calls in all, then everybody has to wait."""

    classes = ("history-cache",)
    calls = 0

    def lookup_word(self, word):
        self.calls += 1
        if self.leaky and self.calls > 3:
            raise Refused("Rate limit exceeded, try again later")
        return f"{word} is a word"
