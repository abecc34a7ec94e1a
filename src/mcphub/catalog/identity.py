"""How a server is told who its user is: `userContext` and `credentialSlots` of an entry.

Values and checks; nothing here is a user's. `spawn.launching` sends what is fixed for an instance,
`gateway.context` what differs from request to request.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import urlsplit

from mcphub.catalog.entries import ServerEntry
from mcphub.policy.model import Transport

Send = Literal["auto", "always", "never"]

REQUEST_PLACE: Final = "request"
"""Where a slot of `credentialSlots` goes: with each request, in no template."""
_RESERVED: Final = frozenset(
    {"user-id", "session-id", "request-id", "user-groups", "protocol-version", "user-context"}
)
_SPELLED: Final = {"github": "GitHub", "gitlab": "GitLab", "openai": "OpenAI", "youtube": "YouTube"}
_SLOT: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_JWK_MEMBERS: Final = frozenset({"kty", "crv", "x", "kid", "use", "alg"})


@dataclass(frozen=True, slots=True)
class UserContextSpec:
    """The `userContext` object of a server, or its defaults for one with `userAware`.

    Attributes:
        send: `auto` when the server offers the extension, `always`, or `never`.
        audience: The server, as in `aud`; the administrator's word, never the server's.
        pairwise: The user's id is another one for each audience; otherwise the hub's own id.
        groups: Names of groups that may be told; None for all.
        permissions: Group -> permissions that its members are told to have.
        encrypt_to: Public JWK that the user's credentials are encrypted to; None for headers.
    """

    send: Send = "auto"
    audience: str = ""
    pairwise: bool = True
    groups: frozenset[str] | None = frozenset()
    permissions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    encrypt_to: Mapping[str, str] | None = None

    @property
    def content(self) -> tuple[object, ...]:
        """All of it in an order that never changes, for the digest of a spec."""
        return (
            self.send,
            self.audience,
            self.pairwise,
            None if self.groups is None else sorted(self.groups),
            sorted((group, sorted(names)) for group, names in self.permissions.items()),
            sorted((self.encrypt_to or {}).items()),
        )

    def groups_of(self, groups: Collection[str]) -> list[str]:
        """Return which of a user's groups this server is told, sorted."""
        return sorted(g for g in groups if self.groups is None or g in self.groups)

    def permissions_of(self, groups: Collection[str]) -> list[str]:
        """Return the permissions of a user with these groups, sorted."""
        return sorted({name for group in groups for name in self.permissions.get(group, ())})


def header_of(slot: str) -> str:
    """Return the name of the header of a credential slot: `GITHUB_TOKEN` -> `X-MCPHub-GitHub-Token`."""
    words = (part.lower() for part in slot.split("_") if part)
    return "X-MCPHub-" + "-".join(_SPELLED.get(word, word.title()) for word in words)


def user_context_of(
    name: str, entry: ServerEntry, transport: Transport, url: str
) -> UserContextSpec | None:
    """Return how a server is told its user; None when it is not."""
    written = entry.user_context
    if written is None and not entry.user_aware:
        return None
    audience = _audience(name, transport, url)
    if written is None:
        return UserContextSpec(audience=audience)
    groups = frozenset(written.groups) if isinstance(written.groups, list) else frozenset[str]()
    return UserContextSpec(
        send=written.send,
        audience=written.audience or audience,
        pairwise=written.subject == "pairwise",
        groups=None if written.groups is True else groups,
        permissions=MappingProxyType(
            {group: tuple(names) for group, names in written.permissions.items()}
        ),
        encrypt_to=None
        if written.encrypt_to is None
        else MappingProxyType(dict(written.encrypt_to)),
    )


Found = tuple[str, str, tuple[str | int, ...]]
"""Message, hint and place of a problem."""


def problems_of(entry: ServerEntry, transport: Transport, url: str) -> Iterator[Found]:
    """Yield what is wrong with how an entry tells its server the user."""
    encrypted = entry.user_context is not None and entry.user_context.encrypt_to is not None
    for index, slot in enumerate(entry.credential_slots):
        where = ("credentialSlots", index)
        if not _SLOT.match(slot) or header_of(slot)[9:].lower() in _RESERVED:
            yield "It cannot name a credential slot.", "Write it like GITHUB_TOKEN.", where
        elif entry.credential_slots.index(slot) != index:
            yield "The slot stands here twice.", "Remove one.", where
    if entry.credential_slots and not encrypted:
        parts = urlsplit(url)
        if transport is not Transport.HTTP:
            yield (
                "A program gets credentials in its environment.",
                'Write "env": {"NAME": "${USER_SLOT}"}, or give "userContext.encryptTo".',
                ("credentialSlots",),
            )
        elif parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            yield (
                "Credentials would travel in clear: the URL is plain http.",
                'Use https, or give "userContext.encryptTo".',
                ("credentialSlots",),
            )
    if entry.user_context is not None:
        yield from _context_problems(entry)


def _context_problems(entry: ServerEntry) -> Iterator[Found]:
    context = entry.user_context
    assert context is not None
    if context.send == "never" and entry.user_context is not None and context.encrypt_to:
        yield (
            "Nothing is sent, so nothing is encrypted.",
            "Remove it.",
            ("userContext", "encryptTo"),
        )
    if context.audience and not context.audience.isprintable():
        yield "An audience is printable text on one line.", "", ("userContext", "audience")
    if isinstance(context.groups, list) and any(not _plain(g) for g in context.groups):
        yield _NOT_PLAIN, "Leave this group out.", ("userContext", "groups")
    if context.encrypt_to is not None and not _is_x25519(context.encrypt_to):
        yield (
            "It is no public X25519 key (JWK with kty OKP, crv X25519, x; without d).",
            "The SDK makes one: DecryptionKey(...).public_jwk.",
            ("userContext", "encryptTo"),
        )


_NOT_PLAIN: Final = "A group that is sent in a header has neither comma nor line break."


def _plain(group: str) -> bool:
    return group.isprintable() and group.isascii() and "," not in group


def _is_x25519(jwk: Mapping[str, str]) -> bool:
    try:
        x = base64.b64decode(jwk.get("x", "") + "=", b"-_", validate=True)
    except (binascii.Error, ValueError):
        return False
    curve = (jwk.get("kty"), jwk.get("crv"))
    return curve == ("OKP", "X25519") and len(x) == 32 and set(jwk) <= _JWK_MEMBERS


def _audience(name: str, transport: Transport, url: str) -> str:
    """Return the default audience: the server's URL without what may be a user's, or a URN."""
    if transport is not Transport.HTTP:
        return f"urn:mcphub:server:{name}"
    parts = urlsplit(url)
    path = "" if "$" in parts.path else parts.path
    return f"{parts.scheme}://{parts.netloc}{path}"
