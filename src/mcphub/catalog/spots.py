"""Where in the words and files of a launch line credentials stand: by name, by form, inside of texts. Pure.

A credential may be a whole word, or stand inside of one: in JSON, in a header, in `NAME=value` pairs,
settings and connection strings, and in the user part, the path or the query of a URL.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SECRET_NAME: Final = re.compile(
    r"token|secret|passw|passphrase|api_?key|access_?key|private_?key|_key$|^key$|credential|_pat$|_pass$"
    r"|auth_?key|bearer|^(?:proxy_)?authorization$|^cookie$|^pwd$|^pass$",
    re.IGNORECASE,
)
_NOT_SECRET: Final = re.compile(r"true|false|yes|no|on|off|none|null|", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d{1,6}")
_NUMBERED: Final = re.compile(
    r"tokens|keys|max|min|limit|count|size|len|ttl|expir|time|port|num|days|hours|seconds",
    re.IGNORECASE,
)
_UUID: Final = re.compile(r"[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}", re.IGNORECASE)
_LONG: Final = re.compile(r"[\w+/=-]{24,}")
_RUN: Final = re.compile(r"[A-Za-z0-9]{10,}")
_PARTS: Final = re.compile(r"\d+|[A-Z]?[a-z]+|[A-Z]+")
_WORDY: Final = 3.5  # letters of a part on average in what people write: `Report2026Final`
# of a form that nothing else has: a JWT, a token of three parts, a bot's number and token
_FORMS: Final = re.compile(
    r"eyJ[\w-]{8,}\.[\w.-]+"
    r"|(?:[\w-]{5,}\.){1,2}(?=[^.]*\d)(?=[^.]*[A-Z])(?=[^.]*[a-z])[\w-]{20,}"
    r"|(?:bot)?\d{6,12}:[\w-]{30,}"
)
_PREFIXED: Final = re.compile(
    r"(?:gh[pousr]_|github_pat_|xox[abeprs]-|xapp-|gl(?:pat|oas|dt|rt|ptt|ft)-|ntn_|lin_api_|[srp]k[-_]|AKIA|AIza|hf_|npm_|pypi-)[\w.-]{10,}"
)
_URL: Final = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://\S+")
_AUTHORITY: Final = re.compile(r"[a-z][a-z0-9+.-]{0,20}://(?:(?P<user>[^\s/?#]*)@)?[^\s/?#]*")
_IN_QUERY: Final = re.compile(r"[?&#;](?P<name>[\w.-]+)=(?P<value>[^&#;\s]+)")
_SEGMENT: Final = re.compile(r"/(?P<value>[^/?#\s]+)")
_HEXADECIMAL: Final = re.compile(r"[\da-f]+", re.IGNORECASE)
_PAIR: Final = re.compile(
    r"(?:^|[\s;,&])(?P<name>[A-Za-z_][\w.-]{0,60}(?: [A-Za-z]\w{0,20})?)[ \t]{0,20}=[ \t]{0,20}(?P<value>\"[^\"]*\"|'[^']*'|[^\s;,&]+)"
)
_HEADER: Final = re.compile(
    r"(?:^|[\n,;])\s*(?P<name>[A-Za-z][\w-]{1,60})\s*:\s*(?P<value>[^\n,;]+)"
)
_SCHEME: Final = re.compile(r"(?:bearer|basic|token|bot|apikey)\s+", re.IGNORECASE)
_CERTAIN: Final = re.compile(r"(?:bearer|basic)[ \t]+\S{6,}", re.IGNORECASE)
_DEEPEST: Final = 2  # a header in JSON
_LONGEST: Final = 65_536  # characters of a word or a file that are looked at
_MEMBER: Final = re.compile(r"\"(?P<name>[^\"\\]{1,80})\"\s*:\s*\"(?P<value>[^\"\\]*)\"")


@dataclass(frozen=True, slots=True)
class Spot:
    """A credential inside of a text.

    Attributes:
        start, end: Where it stands.
        name: What it goes by there; empty where nothing names it.
    """

    start: int
    end: int
    name: str = ""


def sounds_secret(name: str) -> bool:
    """Tell whether what goes by this name has to be taken for a credential.

    Rather once too often: it is hidden, or made up. What users are asked for is decided by
    `secrets_in_text.is_secret_name`.
    """
    return bool(_SECRET_NAME.search(name.strip().replace("-", "_")))


def spots(name: str, text: str) -> list[Spot]:
    """Return where credentials stand in a text, in order, apart from each other.

    Args:
        name: What the text goes by; empty for a word that nothing names.
        text: The text.
    """
    return _apart(_spots(name, text[:_LONGEST], 0))


def _spots(name: str, text: str, depth: int) -> list[Spot]:
    deeper = depth + 1
    found: list[Spot] = []
    if depth < _DEEPEST and _is_json(text):
        found = [spot for member in _MEMBER.finditer(text) for spot in _inner(member, text, deeper)]
    found = found or _in_urls(text)
    if _is_place(text):
        return found
    if depth < _DEEPEST:
        found = _apart([*found, *_pairs(text, deeper), *_headers(text, deeper)])
    if found:
        return found
    if _is_secret(name, text):
        scheme = _SCHEME.match(text)
        return [Spot(scheme.end() if scheme else 0, len(text), name)]
    return []


def looks_made_up(text: str) -> bool:
    """Tell whether a text is of a form that nothing but a credential has, whatever it goes by."""
    if _FORMS.fullmatch(text) or _PREFIXED.fullmatch(text):
        return True
    if not _LONG.fullmatch(text) or _UUID.fullmatch(text):
        return False
    for run in _RUN.findall(text):
        parts = _PARTS.findall(run)
        if any(part.isdigit() for part in parts) and len(run) < _WORDY * len(parts):
            return True
    return False


def _is_secret(name: str, value: str) -> bool:
    """Tell whether a value is a credential; what stands for one under its name, such as `x`, counts."""
    if _is_place(value) or _NOT_SECRET.fullmatch(value):
        return False
    if not sounds_secret(name):
        return looks_made_up(value) or bool(_CERTAIN.fullmatch(value))
    return not (_NUMBER.fullmatch(value) and _NUMBERED.search(name))


def _is_place(value: str) -> bool:
    """Tell whether a value is a path or a URL, not a credential by itself."""
    return value.startswith(("/", "./", "~", "{home}", "{lab}")) or bool(_URL.match(value))


def _is_json(text: str) -> bool:
    text = text.strip()
    return text.startswith(("{", "[")) and text.endswith(("}", "]"))


def _pairs(text: str, depth: int) -> Iterator[Spot]:
    for pair in _PAIR.finditer(text):
        if pair["value"].strip("=\"'"):
            yield from _inner(pair, text, depth)


def _headers(text: str, depth: int) -> Iterator[Spot]:
    for header in _HEADER.finditer(text):
        yield from _inner(header, text, depth)


def _inner(match: re.Match[str], text: str, depth: int) -> Iterator[Spot]:
    """Yield the credentials in the value of a match that has a name."""
    start, end = match.span("value")
    while end > start and text[end - 1] in " \"'":
        end -= 1
    while start < end and text[start] in " \"'":
        start += 1
    for spot in _spots(match["name"], text[start:end], depth):
        yield Spot(start + spot.start, start + spot.end, spot.name)


def _in_urls(text: str) -> list[Spot]:
    return [
        Spot(url.start() + spot.start, url.start() + spot.end, spot.name)
        for url in _URL.finditer(text)
        for spot in _in_url(url[0])
    ]


def _in_url(url: str) -> Iterator[Spot]:
    authority = _AUTHORITY.match(url)
    if authority is None:
        return
    if authority["user"]:
        start, (user, colon, password) = authority.start("user"), authority["user"].partition(":")
        if password:
            start += len(user) + len(colon)
            yield Spot(start, start + len(password), "url")
        elif looks_made_up(user):
            yield Spot(start, start + len(user), "url")
    query = min((at for at in (url.find("?"), url.find("#")) if at >= 0), default=len(url))
    for segment in _SEGMENT.finditer(url, authority.end(), query):
        # a hash in a path mostly names a version of something
        if looks_made_up(segment["value"]) and not _HEXADECIMAL.fullmatch(segment["value"]):
            yield Spot(*segment.span("value"), "url")
    for pair in _IN_QUERY.finditer(url, query):
        if _is_secret(pair["name"], pair["value"]):
            yield Spot(*pair.span("value"), "url")


def _apart(found: list[Spot]) -> list[Spot]:
    kept: list[Spot] = []
    for spot in sorted(found, key=lambda spot: (spot.start, -spot.end)):
        if not kept or spot.start >= kept[-1].end:
            kept.append(spot)
    return kept
