"""Who the user of one request is, as its server is told: `_meta`, and headers over HTTP.

Made anew for each request from the caller's principal, never from what the client sent (rule R4): the
key of `_meta` and all headers of these names are taken off inbound requests before. What is fixed for
an instance (its user's id, credentials) is with the instance. Source: docs/reference/user-context.md.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import InvalidInput
from mcphub.gateway.calls import Call
from mcphub.gateway.shares import Readers
from mcphub.ids import Clock
from mcphub.policy.model import Transport
from mcphub.spawn.instance import Instance
from mcphub.upstream.outgoing import Tell
from mcphub.vault.signing import ContextSigner
from mcphub.wire import envelope
from mcphub.wire.canonical import NotCanonical
from mcphub.wire.codes import META_USER_CONTEXT
from mcphub.wire.digest import MOST as MOST_VALUES
from mcphub.wire.digest import NOT_COVERED, Digest, TooManyValues, is_small
from mcphub.wire.envelope import Members
from mcphub.wire.pieces import Raw

HEADER: Final = "X-MCPHub-User-Context"
_KEY: Final = META_USER_CONTEXT.encode()
_NAMES: Final = ("name", "uri")
_CLIENT_MAX: Final = 128


@dataclass(slots=True)
class UserContexts:
    """Makes the user contexts of one hub's requests.

    Attributes:
        signer: Signs them.
        clock: Epoch seconds.
        lifetime_s: Validity of each.
    """

    signer: ContextSigner
    clock: Clock
    lifetime_s: int = 60

    def teller(
        self, call: Call, spec: ServerSpec, instance: Instance, method: str, readers: Readers
    ) -> Tell | None:
        """Return what says who the user of a call is, for each writing of a request; None for nothing.

        Args:
            call: Whose request it is.
            spec: The server.
            instance: Where it goes.
            method: Of the request: the call's own, or that of a list that the call needs.
            readers: In whose time a large request is read.
        """
        if spec.user_context is None and (
            spec.transport is not Transport.HTTP or not spec.request_slots
        ):
            return None
        signed = self.wanted(spec, instance.upstream.opening)
        return Teller(self, call, spec, instance, method, readers, signed=signed)

    def headers(self, call: Call, spec: ServerSpec) -> dict[str, str]:
        """Return the headers of a call that tell its HTTP server about it; empty for other servers."""
        context = spec.user_context
        if spec.transport is not Transport.HTTP or (context is None and not spec.request_slots):
            return {}
        told = {"X-MCPHub-Request-Id": call.request_id}
        if call.session is not None:
            told["X-MCPHub-Session-Id"] = call.session.digest
        groups = context.groups_of(call.principal.groups) if context is not None else []
        if groups:
            told["X-MCPHub-User-Groups"] = ",".join(g for g in groups if _plain(g))
        return told

    def wanted(self, spec: ServerSpec, opening: bytes) -> bool:
        """Whether the server gets an assertion: by the settings, and by what it offered.

        Args:
            spec: Of the server.
            opening: Its InitializeResult, raw.
        """
        context = spec.user_context
        if context is None or context.send == "never":
            return False
        return context.send == "always" or offers(opening)

    def assertion(
        self, call: Call, spec: ServerSpec, instance: Instance, params: Members, digest: Digest
    ) -> str:
        """Return the assertion for one request to a server, of the calling user.

        Args:
            call: Whose request it is.
            spec: The server.
            instance: Where it goes.
            params: Raw params of the request, as the server gets them.
            digest: Of the request; taken.
        """
        context = spec.user_context
        assert context is not None
        now = int(self.clock())
        principal = call.principal
        claims: dict[str, Any] = {
            "iss": self.signer.issuer,
            "sub": self.subject(spec, principal.user_id),
            "aud": context.audience,
            "iat": now,
            "exp": now + self.lifetime_s,
            "jti": self._unique(call),
            "act": {"sub": self.signer.issuer, "client": _shown(call.client)},
            "request": {"method": digest.method, **_named(params), "digest": digest.value},
        }
        groups = context.groups_of(principal.groups)
        permissions = context.permissions_of(principal.groups)
        claims |= {"groups": groups} if groups else {}
        claims |= {"permissions": permissions} if permissions else {}
        # only to the owner's own instance: an instance's credentials are its owner's
        if instance.told.credentials and instance.owner == principal.user_id:
            claims["credentials"] = instance.told.credentials
        return self.signer.sign(claims, instance.told.key_id)

    def subject(self, spec: ServerSpec, user_id: str) -> str:
        """Return the id by which a server knows a user."""
        context = spec.user_context
        if context is None or not context.pairwise:
            return user_id
        return self.signer.subject(user_id, context.audience)

    def _unique(self, call: Call) -> str:
        """Return the request's id, with a number behind it after the first use: each counts once."""
        call.assertions += 1
        number = call.assertions
        return call.request_id if number == 1 else f"{call.request_id}-{number}"


class Teller:
    """Tells one server who the user of one call is: `upstream.outgoing.Tell`.

    Args:
        contexts: Makes what is told.
        call: Whose request it is.
        spec: The server.
        instance: Where the request goes.
        method: Of the request.
        readers: In whose time a large request is read.
        signed: The server gets an assertion.
    """

    __slots__ = (
        "_call", "_contexts", "_headers", "_instance", "_method", "_read", "_readers", "_signed", "_spec",
    )  # fmt: skip

    def __init__(
        self,
        contexts: UserContexts,
        call: Call,
        spec: ServerSpec,
        instance: Instance,
        method: str,
        readers: Readers,
        *,
        signed: bool,
    ) -> None:
        self._contexts, self._call, self._spec = contexts, call, spec
        self._instance, self._method = instance, method
        self._readers, self._signed = readers, signed
        self._headers = contexts.headers(call, spec)
        self._read: tuple[Members, Digest] | None = None

    def is_ready(self, written: Members) -> bool:
        """Whether a request is told about in one step."""
        return not self._signed or self._is_read(written) or is_small(written)

    async def prepare(self, written: Members) -> None:
        """Read a large request in its user's share of the loop's time, to be told about it then.

        Raises:
            InvalidInput: The params have no canonical form.
        """
        digest = Digest(self._method, written)
        with _clear():
            await self._readers.of(self._call.principal.user_id).catch_up(digest)
        self._read = written, digest

    def __call__(self, written: Members) -> tuple[Members, dict[str, str]]:
        """Return keys of `_meta` and headers for one request.

        Raises:
            InvalidInput: The params have no canonical form.
        """
        if not self._signed:
            return {}, self._headers
        if self._read is not None and self._is_read(written):
            _, digest = self._read
        else:
            digest = Digest(self._method, written)
            with _clear():
                digest.finish()
        token = self._contexts.assertion(self._call, self._spec, self._instance, written, digest)
        meta: Members = {META_USER_CONTEXT: envelope.raw({"assertion": token})}
        mirrored = {HEADER: token} if self._spec.transport is Transport.HTTP else {}
        return meta, {**self._headers, **mirrored}

    def _is_read(self, written: Members) -> bool:
        """Whether these are the values that were read; large ones are not compared, they are the same objects."""
        if self._read is None:
            return False
        known, _ = self._read
        names = {*known, *written} - NOT_COVERED
        return all(name in known and _are_same(known[name], written.get(name)) for name in names)


@contextlib.contextmanager
def _clear() -> Iterator[None]:
    """Say what is wrong with params that have no canonical form."""
    try:
        yield
    except TooManyValues:
        raise InvalidInput(
            f"The arguments hold more than {MOST_VALUES:,} values, the most for a server that is told "
            "its user.",
            hint="Send them in parts, or as one text.",
        ) from None
    except NotCanonical:
        raise InvalidInput(
            "The arguments hold a number or a text that has no unambiguous form.",
            hint="Use finite numbers and valid Unicode.",
        ) from None


def offers(opening: bytes) -> bool:
    """Whether an InitializeResult (or a DiscoverResult in its form) offers the extension, version 1."""
    if _KEY not in opening:
        return False
    capabilities = envelope.object_of(envelope.object_of(opening).get("capabilities"))
    for member in ("extensions", "experimental"):
        offered = envelope.object_of(capabilities.get(member))
        if META_USER_CONTEXT in offered:
            settings = envelope.object_of(offered[META_USER_CONTEXT])
            versions = envelope.array_of(settings.get("versions"))
            return not versions or any(envelope.text(version) == "1" for version in versions)
    return False


def _are_same(one: Raw, other: Raw | None) -> bool:
    return one is other or (type(one) is type(other) is msgspec.Raw and one == other)


def _named(params: Members) -> dict[str, str]:
    for member in _NAMES:
        if member in params and (name := envelope.text(params[member])):
            return {"name": name[:1024]}
    return {}


def _shown(client: str) -> str:
    return "".join(char for char in client[:_CLIENT_MAX] if char.isprintable())


def _plain(group: str) -> bool:
    return group.isascii() and group.isprintable() and "," not in group
