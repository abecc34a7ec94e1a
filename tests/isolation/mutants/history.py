"""One user can tell what the other did: logs, caches, limits."""

import json
import time
import urllib.request

from .server import Refused, Variant, called


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
        if not url.startswith(("http://", "https://")):
            raise Refused("only pages of the web")
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


class LimitOfASecond(Variant):
    """One question a second for everybody together, or for nobody; most tools ask two at once."""

    classes = ("history-cache",)
    last = 0.0

    def _ask(self, questions):
        for _ in range(questions if self.leaky else 0):
            now = time.monotonic()
            if now - self.last < 1:
                raise Refused("Rate limit exceeded")
            self.last = now

    def lookup_place(self, place):
        self._ask(2)
        return f"{place} is a place"

    def lookup_river(self, river):
        self._ask(2)
        return f"{river} is a river"

    def lookup_street(self, street):
        self._ask(2)
        return f"{street} is a street"

    def lookup_word(self, word):
        self._ask(1)
        return f"{word} is a word"


class PageCacheWithUpdates(PageCache):
    """Also asks once whether there is a newer version, with whatever call is the first: no answer of a cache."""

    asked = False

    def fetch_page(self, url):
        self._ask()
        return super().fetch_page(url)

    def count_words(self, text):
        self._ask()
        return f"{len(text.split())} words"

    def _ask(self):
        if not self.asked:
            self.asked = True
            called({}, "http://updates.acme.test/version")


class RemembersPrompts(Variant):
    """Has prompts only, and one of them shows what the others were asked for."""

    classes = ("history-cache",)
    prompts = {"summary": ["topic"], "again": []}

    def __init__(self, leaky):
        super().__init__(leaky)
        self.topics = []

    def prompt(self, name, arguments):
        if name == "again":
            return f"As before: {', '.join(self.topics)}"
        if self.leaky:
            self.topics.append(arguments["topic"])
        return f"Sum up {arguments['topic']}."


class RemembersPromptsServed(RemembersPrompts):
    http = True


class CountsReaders(Variant):
    """Has a resource only, which says how often it was read."""

    classes = ("state",)
    resources = ("page://news",)
    readers = 0

    def read(self, uri):
        self.readers += 1
        return f"read {self.readers} times" if self.leaky else "news"
