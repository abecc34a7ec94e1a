"""What stands in a launch line that is secret, and the sentinels that take its place.

A real credential never reaches a server under check: each is replaced by a sentinel of the same
form, which is then sought upstream (token) and in what the server says (secret). One sentinel more
stands in the environment under a made-up name, so that every server has something to tell.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from mcphub.isolation.canaries import mint

_SECRET_NAME: Final = re.compile(
    r"token|secret|passw|passphrase|api_?key|access_?key|private_?key|_key$|^key$|credential|_pat$|_pass$|auth_?key|bearer",
    re.IGNORECASE,
)
_NOT_SECRET: Final = re.compile(r"true|false|yes|no|on|off|none|null|", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d{1,6}")
_NUMBERED: Final = re.compile(
    r"tokens|keys|max|min|limit|count|size|len|ttl|expir|time|port|num|days|hours|seconds",
    re.IGNORECASE,
)
# of a form that nothing but a credential has, whatever its variable is called; no UUID, no host name
_MADE_UP: Final = re.compile(
    r"(?=[^\d]*\d)(?=[^A-Za-z]*[A-Za-z])[\w+/=-]{24,}|eyJ[\w-]{8,}\.[\w.-]+"
)
_UUID: Final = re.compile(r"[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}", re.IGNORECASE)
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9]{2,12}[_-])+(?=[A-Za-z0-9])")
_FLAG: Final = re.compile(r"--?([\w-]+)(?:=(.+))?", re.DOTALL)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://\S+")
_SLOT: Final = re.compile(r"\$\{USER_(\w+)\}")
_SIGNS: Final = re.compile(r"secret|sign|jwt|hmac", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Credential:
    """A planted credential.

    Attributes:
        label: Where it stands, such as `env:API_TOKEN`; for reports.
        value: What the server gets: the form's prefix and the sentinel.
        sentinel: What is sought.
        given: It took the place of something in the launch line; else it was added by the check.
    """

    label: str
    value: str
    sentinel: str
    given: bool = True

    @property
    def prefix(self) -> str:
        """Form of the credential, such as `ghp_`."""
        return self.value[: self.value.index(self.sentinel)]


@dataclass(frozen=True, slots=True)
class Disguise:
    """A launch line with sentinels in the place of credentials."""

    args: tuple[str, ...]
    env: Mapping[str, str]
    credentials: tuple[Credential, ...]

    @property
    def given(self) -> tuple[Credential, ...]:
        """Credentials that the launch line has."""
        return tuple(c for c in self.credentials if c.given)


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or flag of this name holds a credential."""
    return bool(_SECRET_NAME.search(name.replace("-", "_")))


def disguise(args: Sequence[str], env: Mapping[str, str], *, canary: str) -> Disguise:
    """Replace the credentials of a launch line; `canary` names the variable that is added."""
    return _Disguiser().run(args, env, canary)


def sentinel_like(value: str, label: str) -> Credential:
    """Return a credential of the same form as a value."""
    prefix = _PREFIX.match(value)
    sentinel = mint()
    missing = max(0, len(value) - len(sentinel) - (len(prefix[0]) if prefix else 0))
    made = f"{prefix[0] if prefix else ''}{sentinel}{'0' * min(missing, 64)}"
    return Credential(label, made, sentinel)


def header_names(credentials: Sequence[Credential]) -> list[str]:
    """Return names of headers that the variables of a server suggest: `API_TOKEN` -> `Api-Token`."""
    names: list[str] = []
    for credential in credentials:
        place, _, name = credential.label.partition(":")
        if place == "env":
            names += [name.replace("_", "-").title(), name]
    return list(dict.fromkeys(names))


def signed(secret: str, user: str, sentinel: str, scopes: Sequence[str] = ()) -> str:
    """Return a JWT (RFC 7519, HS256) that speaks for a user."""
    claims = {
        "sub": sentinel, "tid": f"tenant-{user.lower()}", "tenant_id": f"tenant-{user.lower()}",
        "client_id": sentinel, "cid": sentinel, "user": sentinel, "scp": ["tool:*", *scopes],
        "scope": " ".join(["read", "write", "admin", "tools:read", "tools:write", *scopes]), "iss": "check", "aud": "mcp", "exp": 4_102_444_800,
    }  # fmt: skip
    parts = [_b64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    mac = hmac.new(secret.encode(), ".".join(parts).encode(), hashlib.sha256).digest()
    return ".".join([*parts, _b64(mac)])


def signing(credentials: Sequence[Credential]) -> list[Credential]:
    """Return the credentials that look like keys by which the server verifies its callers."""
    return [c for c in credentials if c.given and _SIGNS.search(c.label)]


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class _Disguiser:
    def __init__(self) -> None:
        self._by_value: dict[str, Credential] = {}

    def run(self, args: Sequence[str], env: Mapping[str, str], canary: str) -> Disguise:
        changed: dict[str, str] = {}
        for name, text in env.items():
            value = self._in_slots(text)
            if value != text:
                changed[name] = value
            elif _is_secret(name, value):
                changed[name] = self._replaced(value, f"env:{name}")
            else:
                changed[name] = self._in_urls(value, f"env:{name}")
        words = [self._in_slots(arg) for arg in args]
        for index, word in enumerate(words):
            if word != args[index]:
                continue  # a slot of a user
            flag = _FLAG.fullmatch(word)
            before = _FLAG.fullmatch(words[index - 1]) if index else None
            if flag and flag[2] and _is_secret(flag[1], flag[2]):
                words[index] = f"{word[: -len(flag[2])]}{self._replaced(flag[2], f'arg:{flag[1]}')}"
            elif before and before[2] is None and not flag and _is_secret(before[1], word):
                words[index] = self._replaced(word, f"arg:{before[1]}")
            else:
                words[index] = self._in_urls(word, "arg:url")
        added = Credential(f"env:{canary}", value := mint(), value, given=False)
        changed[canary] = added.value
        return Disguise(tuple(words), changed, (*self._by_value.values(), added))

    def _replaced(self, value: str, label: str) -> str:
        known = self._by_value.get(value)
        if known is None:
            known = self._by_value[value] = sentinel_like(value, label)
        return known.value

    def _in_slots(self, text: str) -> str:
        return _SLOT.sub(lambda slot: self._replaced(slot[0], f"slot:{slot[1]}"), text)

    def _in_urls(self, text: str, label: str) -> str:
        return _URL.sub(lambda found: self._in_url(found[0], label), text)

    def _in_url(self, url: str, label: str) -> str:
        try:
            parts = urlsplit(url)
            password = parts.password
        except ValueError:
            return url
        if not password:
            return url
        new = quote(self._replaced(unquote(password), label), safe="")
        user, _, host = parts.netloc.rpartition("@")
        netloc = f"{user.partition(':')[0]}:{new}@{host}"
        return urlunsplit(parts._replace(netloc=netloc))


def _is_secret(name: str, value: str) -> bool:
    """Tell whether a variable holds a credential; what stands for one, such as `x`, counts."""
    if _is_place(value) or _NOT_SECRET.fullmatch(value):
        return False
    if not is_secret_name(name):
        return bool(_MADE_UP.fullmatch(value)) and not _UUID.fullmatch(value)
    return not (_NUMBER.fullmatch(value) and _NUMBERED.search(name))


def _is_place(value: str) -> bool:
    """Tell whether a value is a path or a URL, not a credential by itself."""
    return value.startswith(("/", "./", "~", "{home}", "{lab}")) or bool(_URL.match(value))
