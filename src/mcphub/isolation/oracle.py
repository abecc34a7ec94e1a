"""When two answers count as the same: noise that every server makes is left out. Pure.

Small numbers and sums of money stay: a counter is a leak. What changes between two runs without user A is masked by
those two runs, not here.
"""

import re
from collections.abc import Iterable
from typing import Final

from mcphub.isolation.model import Observation
from mcphub.isolation.surface import words_of
from mcphub.isolation.territory import INSIDE

DAY_OF_A: Final = "2026-02-03"
"""The day that A gives, wherever one is wanted; B gives another one."""
_GIVEN: Final = re.compile(
    rf"{DAY_OF_A}|\b02/03/2026\b|\b0?3\.0?2\.2026\b|\bFeb(?:ruary)? 0?3\b|\b0?3(?:rd)? Feb(?:ruary)?\b"
)
_NOISE: Final = (
    (re.compile(r"[A-Za-z0-9+/]{64,}={0,2}"), "<blob>"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]?(?:\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?\s*(?:Z|UTC|[+-]\d\d:?\d\d)?"), "<time>"),
    (re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\w*\b,?|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\w*\s+\d{1,2}\b"), "<day>"),
    (re.compile(r"\b\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?:\s*[AP]M)?\b"), "<time>"),
    (re.compile(r"\b\d+(?:[.,]\d+)?\s*(?:ms|µs|us|ns|s|sec|secs|seconds?|minutes?|milliseconds?)\b"), "<duration>"),
    (re.compile(r"\b(?=\w*\d)[0-9a-f]{7,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b11(?:\.\d{1,3}){3}\b"), "<address>"),  # the sandbox's name service counts them up
    (re.compile(r"\b(pid|process id|port)\b(\W{1,4})\d+", re.IGNORECASE), r"\1\2<number>"),
    (re.compile(r"\d+\.\d{3,}"), "<number>"),  # two digits may be a sum of money
    (re.compile(r"\d{5,}"), "<number>"),
    (re.compile(r"\b[A-Za-z0-9_-]{22,}\b"), "<token>"),
    (re.compile(r"\s+"), " "),
)  # fmt: skip
RATE_LIMITED: Final = re.compile(
    r"rate.?limit|too many requests|quota exceeded|throttl|slow down|\b429\b", re.IGNORECASE
)
PAUSE_S: Final = 1.2
"""After a refusal for too many calls; most limits are for a second."""
TOLD: Final = 4000
"""Characters of an answer in which a reason is sought: the server chose how many there are."""
# Node.js tells a recursive mkdir on a read-only file system as ENOENT; where users write it means what it says
READ_ONLY: Final = re.compile(
    r"\bEROFS\b|read-?only (?:file ?system|database)"
    rf"|\bENOENT\b[^\n]{{0,60}}\bmkdir '(?!{re.escape(str(INSIDE))}/)/",
    re.IGNORECASE,
)
UNWRITABLE: Final = re.compile(
    rf"{READ_ONLY.pattern}|\bEACCES\b|permission denied|unable to open database file",
    re.IGNORECASE,
)
NO_FILE: Final = re.compile(
    r"no such file|\bENOENT\b|file .{0,200}(?:not found|does not exist)", re.IGNORECASE
)
# a browser has authorities of its own, and does not trust the stand-ins'
NO_TRUST: Final = re.compile(
    r"ERR_CERT_|SEC_ERROR_|certificate verify failed|self.?signed certificate|UNABLE_TO_\w*ISSUER"
    r"|x509: certificate|invalid peer certificate|UnknownIssuer",
    re.IGNORECASE,
)
TOO_SHORT: Final = re.compile(
    r"too.?(?:small|short)|at least \d+ char|minimum.{0,20}(?:length|char)|shorter than",
    re.IGNORECASE,
)
NO_JSON: Final = re.compile(
    r"unexpected (?:token|end of json|non-whitespace)|\bjson\b.{0,40}(?:invalid|parse|malformed|error)"
    r"|(?:invalid|valid|parse|parsing|malformed).{0,20}\bjson\b|jsondecodeerror|expecting value",
    re.IGNORECASE,
)

_REFUSAL: Final = re.compile(
    r"^\W*(?:error|failed|failure|cannot|can't|could not|couldn't|unable|invalid)\b"
    r"|^\W*(?:[\w']+\s+){1,4}?(?:error|exception|failure|failed)\s*(?::|occurred\b|while\b)"
    r"|^\W*(?:错误|失败|无法|エラー|오류|ошибка|erro|fehler|erreur)\b"
    r"|^\W*(?:unknown|unbekannte[rsnm]?|inconnue?|неизвестн\w{1,3}) (?:[\w']+ ){0,2}[\w']+\s?[:'\"`]"
    r"|^\W*(?:[\w']+\s){1,3}(?:inconnue?s?|desconocid[oa]s?|desconhecid[oa]s?|sconosciut[oaie]|unbekannt)\s?[:'\"`]"
    r"|^\W*(?:未知|不支持|无效|不明な|無効な)"
    r"|^.{0,160}?\b(?:does not exist|not found|no such|no existe|nicht gefunden|introuvable|n[ãa]o (?:encontrad|existe))"
    r"|^.{0,160}?(?:不存在|未找到|找不到|見つかりません|存在しません|찾을 수 없|не найден|не существует)"
    r"|[\"'](?:success|sucesso|[ée]xito|succ[èe]s|erfolg|成功)[\"']:\s*false"
    r"|^\s*\{\s*[\"'](?:error|erro|erreur|fehler|ошибка|错误|エラー)[\"']|[\"']isError[\"']:\s*true"
    r"|^\s*\{\s*[\"']\w+[\"']:\s*\[\s*\{\s*[\"']error[\"']:\s*[\"']\w"
    r"|^\s*\{(?:\s*[\"']\w+[\"']:\s*(?:\[\]|\{\}|0|null|false),){1,8}\s*[\"']error[\"']:\s*[\"']\w"
    r"|^\s*\{\s*[\"'](?:status|ok|result)[\"']:\s*(?:false\b|[\"'](?:error|fail))"
    r"|\binvalid (?:arguments?|parameters?|json|input)\b|validation error|jsondecodeerror"
    r"|unexpected token|not valid json",
    re.IGNORECASE | re.DOTALL,
)
# What a refusal says is missing: pydantic, JSON Schema, Zod, and what people write themselves.
_MISSING: Final = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        r"^(?:[\w.]{0,80}\.)?([a-z_]\w{0,40})[ \t]*\n[ \t]*field required",
        r"[\"'`]([a-z_]\w{0,40})[\"'`] is (?:a )?required\b",
        r"\brequired (?:field|key|property|parameter|argument)s?\b[:\s]{0,3}[\"'`]([a-z_]\w{0,40})[\"'`]",
        r"\bmissing (?:required )?(?:(?:field|key|property|parameter|argument)s?\b)?[:\s]{0,3}[\"'`]?([a-z_]\w{0,40})\b",
        r"\bKeyError: [\"']([a-z_]\w{0,40})[\"']",
        r"[\"']path[\"']:\s{0,20}\[[^\]]{0,200}?[\"'](\w{1,40})[\"']\s{0,20}\],\s{0,20}[\"']message[\"']:\s?[\"'](?:required|[^\"']{0,60}undefined)",
        r"\b([a-z_]\w{0,40}) is required\b",
        r"\bNOT NULL constraint failed: [\w.]{1,80}\.([a-z_]\w{0,40})",
        r"\bnull value in column [\"'`]?([a-z_]\w{0,40})",
    )
)
# one of these is enough; a name can be made up, an id cannot
_EITHER: Final = re.compile(
    r"\beither [\"'`]?([a-z_]\w{0,40})[\"'`]? or [\"'`]?([a-z_]\w{0,40})[\"'`]? (?:must|should|needs?|ha(?:s|ve) to|(?:is|are) (?:required|needed))\b"
    r"|\bat least one of:? [\"'`]?([a-z_]\w{0,40})[\"'`]?(?:,| or| and) [\"'`]?([a-z_]\w{0,40})",
    re.IGNORECASE,
)
_NO_MEMBERS: Final = frozenset(
    ["a", "an", "and", "any", "argument", "arguments", "field", "fields", "in", "input", "is", "it", "key",
     "or", "parameter", "parameters", "property", "required", "the", "this", "value"]
)  # fmt: skip
_MOST_MISSING: Final = 8
_PORTS: Final = 65_536
_NO_CONNECTION: Final = re.compile(
    r"ECONNREFUSED|connection refused|connect call failed|cannot connect|errno 111", re.IGNORECASE
)
_LOCAL: Final = re.compile(r"\b(127\.0\.0\.1|localhost)\W{1,4}(?:port\W{1,3})?(\d{2,5})\b")


def refused_endpoints(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return the (host, port) of this machine that texts say nobody answers at, each once."""
    found = [
        (host, int(port))
        for text in texts
        if _NO_CONNECTION.search(text)
        for host, port in _LOCAL.findall(text)
        if 0 < int(port) < _PORTS
    ]
    return list(dict.fromkeys(found))


def missing(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the names that refusals say have to be given, each once, the first ones first."""
    texts = list(texts)
    found = [
        name
        for text in texts
        for pattern in _MISSING
        for name in pattern.findall(text[:TOLD])
        if name.lower() not in _NO_MEMBERS
    ]
    for text in texts:
        for names in _EITHER.findall(text[:TOLD]):
            told = [name for name in names if name and name.lower() not in _NO_MEMBERS]
            found += sorted(told, key=lambda name: "id" in words_of(name))[:1]
    return tuple(dict.fromkeys(found))[:_MOST_MISSING]


def worked(seen: Observation) -> bool:
    """Tell whether a call did what it was asked: many servers tell a failure as a success."""
    return seen.ok and not _REFUSAL.search(seen.text[:600])


def normal(text: str) -> str:
    """Return a text without times, ids and other noise; a day that A gave is none."""
    text = _GIVEN.sub("<given day>", text)
    for pattern, instead in _NOISE:
        text = pattern.sub(instead, text)
    return text.strip()


def same(one: Observation, other: Observation) -> bool:
    """Tell whether two observations of the same call say the same."""
    return one.ok == other.ok and normal(one.text) == normal(other.text)


def comparable(one: Observation, other: Observation) -> bool:
    """Tell whether two observations are of the same call and both came."""
    return (
        one.call == other.call
        and not (one.timed_out or other.timed_out)
        and not (one.died or other.died)
    )


def excerpt(text: str, around: str = "", size: int = 400) -> str:
    """Return a short part of a text, the place that matters included."""
    at = max(0, text.find(around)) if around else 0
    start = max(0, at - size // 2)
    part = text[start : start + size].strip()
    return f"{'…' if start else ''}{part}{'…' if start + size < len(text) else ''}"


def first_difference(one: str, other: str) -> str:
    """Return the part of `one` from a little before the place where the texts part."""
    at = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), 0)
    return excerpt(one[max(0, at - 60) :], size=300)
