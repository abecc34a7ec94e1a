"""The user API: what a user does to own credentials and sees of own servers, with an API key.

Mounted under `/api` on the hub's TCP port; Host and Origin are checked before it. The caller comes
from the key alone, no path or body names a user (rules R1, R4), and no answer holds a credential's
value. What is foreign or unknown is not found.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcphub.api.callers import caller_and_body, caller_of
from mcphub.api.replies import guarded, reply
from mcphub.api.turns import Turns
from mcphub.audit.log import CREDENTIAL_DELETED, CREDENTIAL_SET
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import Denied, InvalidInput, NotFound
from mcphub.policy.model import Denial, Permit, Principal
from mcphub.secret import OAUTH_SLOT, Secret

_BODY_LIMIT = 64 * 1024


class CredentialFacts(Protocol):
    """What may be told of a stored credential."""

    @property
    def server(self) -> str:
        """Name of the server."""
        ...

    @property
    def slot(self) -> str:
        """Name of the slot."""
        ...

    @property
    def updated_at(self) -> float:
        """When it was set, seconds since the epoch."""
        ...


class Credentials(Protocol):
    """The part of `vault.Vault` that users reach; every call takes the owner."""

    async def put(self, principal: Principal, server: str, slot: str, value: Secret) -> object:
        """Seal and store a value."""
        ...

    async def delete(self, principal: Principal, server: str, slot: str) -> object:
        """Forget a value."""
        ...

    async def listing(self, principal: Principal) -> "Sequence[CredentialFacts]":
        """Return what the owner has set, without values."""
        ...


@dataclass(frozen=True, slots=True)
class UserServices:
    """What the routes need, put together by `app`.

    Attributes:
        authenticate: API key -> principal, or None.
        decide: May this principal use that server (by name, known to exist).
        specs: All servers now.
        guide: What a slot of a server is and where to get its value; JSON values.
        vault: The users' credentials.
        audit: Writes (actor, action, subject, detail) to the audit log.
        together: Makes what is written within into one transaction.
        end_grant: Deletes a user's authorization (user id, server, actor), writes that to the audit
            log and revokes it; whether its issuer knows.
        changed: Makes the hub's memory follow the database before the answer goes out.
        turns: How often a user may change something.
    """

    authenticate: Callable[[str], Principal | None]
    decide: Callable[[Principal, str], Permit | Denial]
    specs: Callable[[], Mapping[str, ServerSpec]]
    guide: Callable[[ServerSpec, str], Mapping[str, object]]
    vault: Credentials
    audit: Callable[[str, str, str, Mapping[str, str]], Awaitable[object]]
    together: Callable[[], AbstractAsyncContextManager[None]]
    end_grant: Callable[[str, str, str], Awaitable[bool | None]]
    changed: Callable[[], Awaitable[object]]
    turns: Turns


class _NewValue(msgspec.Struct, forbid_unknown_fields=True):
    value: str


def user_routes(services: UserServices) -> list[Route]:
    """Return the routes; the caller mounts them under `/api`."""
    api = _UserApi(services)
    slot = "/me/credentials/{server}/{slot}"
    return [
        Route("/me", guarded(api.me), methods=["GET"]),
        Route("/me/servers", guarded(api.servers), methods=["GET"]),
        Route("/me/credentials", guarded(api.credentials), methods=["GET"]),
        Route(slot, guarded(api.set_credential), methods=["PUT"]),
        Route(slot, guarded(api.delete_credential), methods=["DELETE"]),
    ]


class _UserApi:
    """The endpoints; each begins with `_caller`."""

    def __init__(self, services: UserServices) -> None:
        self._services = services

    async def me(self, request: Request) -> Response:
        """Who the key belongs to."""
        caller = self._caller(request)
        return reply(
            {
                "id": caller.user_id,
                "name": caller.user_name,
                "role": caller.role.value,
                "groups": sorted(caller.groups),
            }
        )

    async def servers(self, request: Request) -> Response:
        """The servers that policy allows, what each needs and what is missing."""
        caller = self._caller(request)
        stored = {(info.server, info.slot) for info in await self._services.vault.listing(caller)}
        found: list[dict[str, object]] = []
        for name, spec in sorted(self._services.specs().items()):
            verdict = self._services.decide(caller, name)
            if isinstance(verdict, Permit):
                found.append(self._server(spec, verdict, stored))
        return reply({"servers": found})

    def _server(
        self, spec: ServerSpec, permit: Permit, stored: set[tuple[str, str]]
    ) -> dict[str, object]:
        slots: list[dict[str, object]] = [
            {
                "slot": slot,
                "set": (spec.name, slot) in stored,
                "guide": dict(self._services.guide(spec, slot)),
            }
            for slot in spec.slot_names
        ]
        return {
            "name": spec.name,
            "title": spec.title,
            "transport": spec.transport.value,
            "isolation": permit.isolation.value,
            "warnings": list(permit.warnings),
            "slots": slots,
            "missing": [slot["slot"] for slot in slots if not slot["set"]],
        }

    async def credentials(self, request: Request) -> Response:
        """What the caller has set, never the values."""
        caller = self._caller(request)
        infos = await self._services.vault.listing(caller)
        return reply(
            {
                "credentials": [
                    {"server": info.server, "slot": info.slot, "updated_at": info.updated_at}
                    for info in sorted(infos, key=lambda info: (info.server, info.slot))
                ]
            }
        )

    async def set_credential(self, request: Request) -> Response:
        """Store a value; it takes effect with the caller's next call."""
        caller, body = await caller_and_body(request, self._services.authenticate, _BODY_LIMIT)
        spec = self._permitted(caller, request.path_params["server"])
        slot = settable_slot(spec, request.path_params["slot"])
        value = Secret(_value(request, body))
        self._services.turns.take(caller.user_id)
        detail = {"server": spec.name, "slot": slot}
        async with self._services.together():
            await self._services.vault.put(caller, spec.name, slot, value)
            await self._services.audit(caller.user_id, CREDENTIAL_SET, caller.user_id, detail)
        await self._services.changed()
        return Response(status_code=204)

    async def delete_credential(self, request: Request) -> Response:
        """Forget a value; also for a server that the caller may no longer use."""
        caller = self._caller(request)
        server, slot = request.path_params["server"], request.path_params["slot"]
        stored = {(info.server, info.slot) for info in await self._services.vault.listing(caller)}
        if (server, slot) not in stored:
            raise NotFound(
                "There is no such credential of yours.",
                hint="GET /api/me/credentials, or `mcphub credential list`, shows yours.",
            )
        self._services.turns.take(caller.user_id)
        if slot == OAUTH_SLOT:
            revoked = await self._services.end_grant(caller.user_id, server, caller.user_id)
            await self._services.changed()
            return reply({"revoked": bool(revoked)})
        detail = {"server": server, "slot": slot}
        async with self._services.together():
            await self._services.vault.delete(caller, server, slot)
            await self._services.audit(caller.user_id, CREDENTIAL_DELETED, caller.user_id, detail)
        await self._services.changed()
        return Response(status_code=204)

    def _caller(self, request: Request) -> Principal:
        return caller_of(request, self._services.authenticate)

    def _permitted(self, caller: Principal, name: str) -> ServerSpec:
        spec = self._services.specs().get(name)
        verdict = self._services.decide(caller, name) if spec is not None else None
        if spec is not None and isinstance(verdict, Permit):
            return spec
        if isinstance(verdict, Denial) and verdict.visible:
            raise Denied(verdict.reason, hint=verdict.hint, code=verdict.rule)
        raise NotFound(
            "There is no such server for you.",
            hint="`mcphub credential list` (GET /api/me/servers) shows the servers that you may use.",
        )


def known_slot(spec: ServerSpec, slot: str) -> str:
    """Return the slot's name.

    Raises:
        NotFound: The server declares no such slot; the hint lists those that it has.
    """
    if slot in spec.slot_names:
        return slot
    names = ", ".join(spec.slot_names)
    raise NotFound(
        f"The server '{spec.name}' has no such credential slot.",
        hint=f"Its slots: {names}." if names else "It needs no credentials.",
    )


def settable_slot(spec: ServerSpec, slot: str) -> str:
    """Return the slot's name, if a value can be set for it.

    Raises:
        NotFound: As `known_slot`.
        InvalidInput: It is an authorization.
    """
    if known_slot(spec, slot) == OAUTH_SLOT:
        raise InvalidInput(
            f"An account is connected to '{spec.name}', no value is set for it.",
            hint=f"Run: mcphub credential connect {spec.name}",
        )
    return slot


def _value(request: Request, body: bytes) -> str:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise InvalidInput('The body must be application/json: {"value": "…"}.')
    try:
        value = msgspec.json.decode(body, type=_NewValue).value
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidInput('The body must be {"value": "…"} and nothing else.') from None
    if not value or "\0" in value:
        raise InvalidInput("The value is empty or holds a NUL character.")
    return value
