"""Who the user of one request is, as its server is told: `_meta`, and headers over HTTP.

Made anew for each request from the caller's principal, never from what the client sent (rule R4): the
key of `_meta` and all headers of these names are taken off inbound requests before. What is fixed for
an instance (its user's id, credentials) is with the instance. Source: docs/reference/user-context.md.
"""

from dataclasses import dataclass
from typing import Any, Final

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import InvalidInput
from mcphub.gateway.calls import Call
from mcphub.ids import Clock
from mcphub.policy.model import Transport
from mcphub.spawn.instance import Instance
from mcphub.upstream.outgoing import Tell
from mcphub.vault.signing import ContextSigner
from mcphub.wire import envelope
from mcphub.wire.canonical import MOST as MOST_VALUES
from mcphub.wire.canonical import NotCanonical, TooManyValues, request_digest
from mcphub.wire.codes import META_USER_CONTEXT
from mcphub.wire.envelope import Members

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

    def teller(self, call: Call, spec: ServerSpec, instance: Instance, method: str) -> Tell | None:
        """Return what says who the user of a call is, for each writing of a request; None for nothing.

        Args:
            call: Whose request it is.
            spec: The server.
            instance: Where it goes.
            method: Of the request: the call's own, or that of a list that the call needs.
        """
        if spec.user_context is None and (
            spec.transport is not Transport.HTTP or not spec.request_slots
        ):
            return None
        headers = self.headers(call, spec)
        signed = self.wanted(spec, instance.upstream.opening)

        def tell(written: Members) -> tuple[Members, dict[str, str]]:
            if not signed:
                return {}, headers
            token = self.assertion(call, spec, instance, method, written)
            meta: Members = {META_USER_CONTEXT: envelope.raw({"assertion": token})}
            mirrored = {HEADER: token} if spec.transport is Transport.HTTP else {}
            return meta, {**headers, **mirrored}

        return tell

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
        self, call: Call, spec: ServerSpec, instance: Instance, method: str, params: Members
    ) -> str:
        """Return the assertion for one request to a server, of the calling user.

        Args:
            call: Whose request it is.
            spec: The server.
            instance: Where it goes.
            method: JSON-RPC method of the request to the server.
            params: Its raw params, as the server gets them.

        Raises:
            InvalidInput: The params have no canonical form.
        """
        context = spec.user_context
        assert context is not None
        try:
            digest = request_digest(method, params)
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
            "request": {"method": method, **_named(params), "digest": digest},
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


def _named(params: Members) -> dict[str, str]:
    for member in _NAMES:
        if member in params and (name := envelope.text(params[member])):
            return {"name": name[:1024]}
    return {}


def _shown(client: str) -> str:
    return "".join(char for char in client[:_CLIENT_MAX] if char.isprintable())


def _plain(group: str) -> bool:
    return group.isascii() and group.isprintable() and "," not in group
