"""Plausible answers of a service that nobody knows: a function of the request and nothing else.

JSON with the field names that most APIs share, GraphQL by the query's own selection, or a small web
page. An answer speaks of a credential by an alias (a short hash) and never holds one: a credential in
a server's output must come from the server.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

_WHEN: Final = "2026-01-01T00:00:00Z"
_LATER: Final = "2099-01-01T00:00:00Z"
_LOGIN: Final = re.compile(r"log-?in|sign-?in|auth|session|token|connect", re.IGNORECASE)
_GRAPHQL: Final = re.compile(r"\.\.\.|[{}]|\((?:[^()]|\([^()]*\))*\)|@\w+|[_A-Za-z]\w*\s*:?|\S")
_DEEPEST: Final = 12


class Shape(StrEnum):
    """What the outermost value of a JSON answer is."""

    OBJECT = "object"
    LIST = "list"
    BARE = "bare"
    """An object without lists in it."""

    def next(self) -> "Shape":
        """Return the one to try after this."""
        shapes = list(Shape)
        return shapes[(shapes.index(self) + 1) % len(shapes)]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came: method, Host header, target, headers, body."""

    method: str
    host: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, wanted: str) -> str:
        """Return a header, or an empty text."""
        return next((value for name, value in self.headers if name.lower() == wanted), "")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `kind` is its content type."""

    status: int
    kind: str
    body: bytes
    cookie: str = ""


def reply(request: Request, shape: Shape, credentials: Iterable[str], login: str = "") -> Answer:
    """Return the answer to a request.

    Args:
        request: The request.
        shape: Of the answer's outermost value.
        credentials: Labels of the credentials in it.
        login: The session that it opens (`logged_in`), or nothing.
    """
    who = alias(credentials)
    if "text/html" in request.header("accept") or request.target.endswith((".html", ".htm")):
        return Answer(200, "text/html; charset=utf-8", _page(request, who).encode())
    query = _graphql(request)
    if query is not None:
        answer: Any = {"data": _selected(query, who)}
    elif request.target.endswith("/robots.txt"):
        return Answer(404, "text/plain", b"none")
    else:
        item = _item(request, who) | _wiki(request) | _session(login)
        answer = {Shape.OBJECT: item | _lists(item), Shape.LIST: [item], Shape.BARE: item}[shape]
    cookie = f"session={login}; Path=/" if login else ""
    return Answer(200, "application/json; charset=utf-8", json.dumps(answer).encode(), cookie)


def logged_in(request: Request, credentials: Iterable[str], said: Iterable[str]) -> str:
    """Return the session that a request opens: one for each that logs in, by what it proves; else nothing.

    Later requests with it act for whoever opened it.
    """
    path = urlsplit(request.target).path
    proof = [*sorted(credentials), *sorted(said)]
    if not proof or request.method != "POST" or not _LOGIN.search(path):
        return ""
    return "session-" + hashlib.sha256(repr((request.host, proof)).encode()).hexdigest()[:32]


def _session(login: str) -> dict[str, Any]:
    """Return the members under which services hand out a session."""
    if not login:
        return {}
    names = ("token", "access_token", "accessToken", "session_token", "sessionToken", "session_id",
             "sessionId", "jwt", "id_token", "auth_token")  # fmt: skip
    return dict.fromkeys(names, login) | {
        "token_type": "Bearer",
        "expires_in": 3600,
        "expires": _LATER,
    }


def alias(credentials: Iterable[str]) -> str:
    """Return the name under which answers speak of a caller."""
    known = "+".join(sorted(credentials))
    return "caller-" + hashlib.sha256(known.encode()).hexdigest()[:8] if known else "anonymous"


def _page(request: Request, who: str) -> str:
    digest = hashlib.sha256(request.target.encode()).hexdigest()[:8]
    return (
        f"<!doctype html><html><head><title>Page {digest}</title></head><body><article>"
        f"<h1>Page {digest}</h1><p>This is the page {digest} of a small site, shown to {who}.</p>"
        '<p>It has a few words and <a href="/next">one link</a>.</p></article></body></html>'
    )


def _person(who: str) -> dict[str, Any]:
    return {
        "id": 1,
        "login": who,
        "name": who,
        "username": who,
        "displayName": who,
        "display_name": who,
        "email": f"{who}@example.com",
        "emailAddress": f"{who}@example.com",
        "accountId": "1",
        "node_id": "U1",
        "avatar_url": "https://example.com/a.png",
        "html_url": "https://example.com/u",
        "url": "https://example.com/u",
        "type": "User",
    }


def _item(request: Request, who: str) -> dict[str, Any]:
    """Return one object with the names that most APIs share."""
    person = _person(who)
    link = f"https://{request.host or 'example.com'}/1"
    return person | {
        "ok": True,
        "success": True,
        "status": "OK",
        "object": "list",
        "key": "K-1",
        "title": "A title",
        "full_name": f"{who}/thing",
        "description": "A thing.",
        "text": "A few words.",
        "body": "A few words.",
        "content": "A few words.",
        "summary": "A thing.",
        "snippet": "A few words.",
        "state": "open",
        "number": 1,
        "points": 1,
        "score": 1,
        "objectID": "1",
        "story_id": 1,
        "children": [],
        "comments": [],
        "private": True,
        "fork": False,
        "default_branch": "main",
        "sha": "0" * 40,
        "path": "thing",
        "size": 1,
        "owner": person,
        "user": person,
        "author": person,
        "creator": person,
        "url": link,
        "html_url": link,
        "link": link,
        "git_url": link,
        "ssh_url": link,
        "clone_url": link,
        "created_at": _WHEN,
        "updated_at": _WHEN,
        "pushed_at": _WHEN,
        "created_time": _WHEN,
        "last_edited_time": _WHEN,
        "date": "2026-01-01",
        "timezone": "UTC",
        "latitude": 1.5,
        "longitude": 1.5,
        "lat": 1.5,
        "lon": 1.5,
        "total": 1,
        "total_count": 1,
        "count": 1,
        "incomplete_results": False,
        "has_more": False,
        "next_cursor": None,
        "properties": {"forecast": link, "periods": [], "name": "A thing"},
        "current": {"temperature_2m": 1.0, "time": "2026-01-01T00:00"},
        "fields": {"summary": "A thing", "status": {"name": "Open"}},
        "geometry": {"location": {"lat": 1.5, "lng": 1.5}},
        "formatted_address": "1 Example Street",
        "place_id": "p1",
    }


def _wiki(request: Request) -> dict[str, Any]:
    """Return what a MediaWiki answers (its API has one address and an `action`), or nothing."""
    asked = parse_qs(urlsplit(request.target).query)
    if "action" not in asked:
        return {}
    new = asked.get("formatversion", ["1"])[0] != "1"
    words = "A few words." if new else {"*": "A few words."}
    page = {
        "pageid": 1, "ns": 0, "title": "A title", "extract": "A few words.", "lastrevid": 1, "touched": _WHEN,
        "fullurl": f"https://{request.host}/wiki/A_title", "snippet": "A few words.", "size": 1, "wordcount": 3,
        "timestamp": _WHEN, "missing": False,
        "revisions": [{"revid": 1, "timestamp": _WHEN, "content": "A few words.", "*": "A few words.",
                       "slots": {"main": {"content": "A few words.", "*": "A few words."}}}],
    }  # fmt: skip
    if not new:
        del page["missing"]  # there its mere presence says that the page is missing
    section = {
        "toclevel": 1,
        "level": "2",
        "line": "Use",
        "number": "1",
        "index": "1",
        "anchor": "Use",
    }
    lists = {name: [page] for name in ("search", "random", "allpages", "categorymembers")}
    return {
        "batchcomplete": True,
        "query": lists | {"pages": [page] if new else {"1": page}, "searchinfo": {"totalhits": 1}},
        "parse": {
            "title": "A title", "pageid": 1, "revid": 1, "text": words, "wikitext": words, "displaytitle": "A title",
            "sections": [section], "links": [], "categories": [], "templates": [], "externallinks": [],
        },
    }  # fmt: skip


def _lists(item: dict[str, Any]) -> dict[str, Any]:
    names = ("items", "results", "data", "values", "entries", "records", "list", "documents",
             "features", "issues", "projects", "channels", "members", "users", "messages",
             "pages", "files", "tasks", "organic", "candidates", "hits")  # fmt: skip
    return {name: [item] for name in names} | {
        "web": {"results": [item], "type": "search"},
        "response_metadata": {"next_cursor": ""},
    }


def _graphql(request: Request) -> str | None:
    """Return the query of a GraphQL request."""
    if request.method == "GET":
        found = parse_qs(urlsplit(request.target).query).get("query", [""])[0]
        return found if found.lstrip().startswith("{") else None
    try:
        value = json.loads(request.body)
    except ValueError:
        return None
    query = value.get("query") if isinstance(value, dict) else None
    return query if isinstance(query, str) and "{" in query else None


def _selected(query: str, who: str) -> Any:
    """Return values for the fields that a query selects."""
    fragments = {
        found[1]: found[2]
        for found in re.finditer(r"fragment\s+(\w+)\s+on\s+\w+\s*(\{.*?\n\})", query, re.DOTALL)
    }
    start = query.find("{")
    tokens = iter(_GRAPHQL.findall(query[start + 1 :]))
    return _fields(tokens, fragments, who, 0)


def _fields(tokens: Any, fragments: dict[str, str], who: str, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    last = ""
    spread = False
    for token in tokens:
        word = token.rstrip(": \n")
        if token == "}" or depth > _DEEPEST:
            break
        if token == "...":
            spread = True
        elif token == "{":
            inner = _fields(tokens, fragments, who, depth + 1)
            if spread or not last:
                found |= inner
                spread = False
            else:
                many = last in {"nodes", "edges"} or (
                    last.endswith("s") and not {"nodes", "edges", "pageInfo"} & set(inner)
                )
                found[last] = [inner] if many else inner
        elif spread and word != "on":
            if word in fragments:
                body = iter(_GRAPHQL.findall(fragments[word][1:]))
                found |= _fields(body, fragments, who, depth + 1)
                spread = False
        elif word.isidentifier() and not token.startswith("@") and not spread:
            if token.rstrip().endswith(":"):
                continue  # an alias: the field follows; its own name is close enough
            last = word
            found[last] = _value(last, who)
    return found


def _value(name: str, who: str) -> Any:
    low = name.lower()
    if low.startswith(("has", "is", "success", "can")) or low in {"active", "admin"}:
        return low.startswith("success")
    if low.endswith(("at", "date")) and low not in {"format"}:
        return _WHEN
    if any(part in low for part in ("count", "number", "priority", "estimate", "position")):
        return 1
    if "url" in low:
        return "https://example.com/1"
    return {"id": "id-1", "name": who, "email": f"{who}@example.com"}.get(low, f"{name} text")
