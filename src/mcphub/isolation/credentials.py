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
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import quote, unquote

from mcphub.catalog.spots import spots
from mcphub.isolation.canaries import mint

_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9]{2,12}[_-])+(?=[A-Za-z0-9])")
_FLAG: Final = re.compile(r"--?([\w-]+)(?:=(.+))?", re.DOTALL)
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
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> tuple[Credential, ...]:
        """Credentials that the launch line has."""
        return tuple(c for c in self.credentials if c.given)


def disguise(
    args: Sequence[str],
    env: Mapping[str, str],
    *,
    canary: str,
    files: Mapping[str, str] | None = None,
) -> Disguise:
    """Replace the credentials of a launch line, and of its files (place -> text).

    `canary` names the variable that is added.
    """
    return _Disguiser().run(args, env, canary, files or {})


def hidden_text(text: str) -> str:
    """Return the text of a file with sentinels in the place of its credentials."""
    return disguise((), {}, canary="CANARY", files={"file": text}).files["file"]


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
        if place == "env" and ":" not in name:
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

    def run(
        self, args: Sequence[str], env: Mapping[str, str], canary: str, files: Mapping[str, str]
    ) -> Disguise:
        changed = {name: self._hidden(f"env:{name}", name, text) for name, text in env.items()}
        words: list[str] = []
        for index, word in enumerate(args):
            flag = _FLAG.fullmatch(word)
            before = _FLAG.fullmatch(args[index - 1]) if index else None
            if flag and flag[2]:
                value = self._hidden(f"arg:{flag[1]}", flag[1], flag[2])
                words.append(word[: -len(flag[2])] + value)
            elif flag:
                words.append(word)
            elif before and before[2] is None:
                words.append(self._hidden(f"arg:{before[1]}", before[1], word))
            else:
                words.append(self._hidden(f"arg:{index + 1}", "", word))
        added = Credential(f"env:{canary}", value := mint(), value, given=False)
        changed[canary] = added.value
        laid = {
            place: self._hidden(f"file:{PurePosixPath(place).name}", "", text)
            for place, text in files.items()
        }
        return Disguise(tuple(words), changed, (*self._by_value.values(), added), laid)

    def _hidden(self, label: str, name: str, text: str) -> str:
        """Return a word with sentinels in the place of its credentials; else of a user's slots only."""
        slots = _SLOT.sub(lambda slot: self._replaced(slot[0], f"slot:{slot[1]}"), text)
        if slots != text:
            return slots
        for spot in reversed(spots(name, text)):
            old = text[spot.start : spot.end]
            in_url = spot.name == "url"
            value = self._replaced(unquote(old) if in_url else old, _label(label, name, spot.name))
            new = quote(value, safe="") if in_url else value
            text = text[: spot.start] + new + text[spot.end :]
        return text

    def _replaced(self, value: str, label: str) -> str:
        known = self._by_value.get(value)
        if known is None:
            known = self._by_value[value] = sentinel_like(value, label)
        return known.value


def _label(label: str, name: str, inside: str) -> str:
    """Return how reports name a credential: where it stands, and what it goes by there."""
    if not inside or inside == name:
        return label
    if inside == "url" and label.startswith("arg:"):
        return "arg:url"
    return f"{label}:{inside}" if inside != "url" else label
