"""From a permit and a spec to a `Launch`: program, templates, credentials, home.

This is the only place where a user's secrets are opened, right before the process starts. The
permit names the user; nothing else can (rules R4, R5). Not here: what a server runs (`programs`),
starting (`spawner`), when (`pool`).
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import structlog

from mcphub.catalog.forms import shaped
from mcphub.catalog.identity import REQUEST_PLACE, header_of
from mcphub.catalog.spec import FactName, ServerSpec
from mcphub.catalog.templates import expand
from mcphub.errors import InvalidInput, MissingCredential
from mcphub.ids import instance_id as new_id
from mcphub.policy.model import Isolation, Permit, Transport
from mcphub.spawn import copies
from mcphub.spawn.discarding import discard
from mcphub.spawn.programs import Program, Programs
from mcphub.spawn.spawner import Launch, Told
from mcphub.upstream.http1 import Bearer
from mcphub.vault.secret import Secret
from mcphub.vault.signing import ContextSigner, encrypt
from mcphub.vault.vault import Vault

NEUTRAL: Final = "neutral"
SHARED: Final = "shared"
HEADERS_VERSION: Final = "1"
"""Of the `X-MCPHub-…` headers (docs/reference/identity-headers.md)."""
TRUST_VARIABLE: Final = "MCPHUB_USER_CONTEXT"
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Dial:
    """How one owner's connection to an HTTP server is made; fixed like a `Launch`.

    Attributes:
        instance_id: Opaque id, `i_…`.
        owner: Opaque id of the user, or `neutral`.
        url: Where to post; its host is the administrator's.
        headers: Headers of every request, with this owner's credentials.
        told: What its requests tell about the user beside the request itself.
        bearer: Gives the owner's access token, where the server has OAuth.
    """

    instance_id: str
    owner: str
    url: str | Secret
    headers: Mapping[str, str | Secret]
    told: Told = Told()
    bearer: Bearer | None = None


class Launcher:
    """Builds launches. Safe for concurrent use.

    Args:
        homes: Directory of all homes on the host.
        programs: What servers run.
        vault: Users' credentials.
        signer: Signs user contexts; says here whom servers may trust.
        home_inside: Host path of a home -> path that the instance sees.
        bearers: Gives the connection of a permit's user to a server with OAuth.

    Attributes:
        programs: The same.
    """

    def __init__(
        self,
        *,
        homes: Path,
        programs: Programs,
        vault: Vault,
        signer: ContextSigner,
        home_inside: Callable[[Path], str],
        bearers: Callable[[Permit], Awaitable[Bearer]] | None = None,
    ) -> None:
        self._homes = homes
        self.programs = programs
        self._vault = vault
        self._signer = signer
        self._home_inside = home_inside
        self._bearers = bearers

    async def launch(self, permit: Permit, spec: ServerSpec, instance_id: str) -> Launch | Dial:
        """Return the launch of `spec` for the permit's principal, with its credentials inside.

        Raises:
            MissingCredential: A slot has no value.
            ValueError: The permit is for another server.
        """
        if permit.server != spec.name:
            raise ValueError("the permit is for another server")
        if permit.isolation is Isolation.SHARED:
            if spec.slots:
                raise InvalidInput(
                    f"Server '{spec.name}' is shared and has credential slots: whose credential would it use?",
                    hint="Remove the slots or the sharing.",
                )
            facts = {FactName.USER_ID: SHARED, FactName.USER_NAME: SHARED}
            return await self._build(
                spec, instance_id, owner=SHARED, number=1, facts=facts, secrets={}
            )
        principal = permit.principal
        secrets = await self._vault.open_for(permit, spec.slot_names)
        facts = {FactName.USER_ID: principal.user_id, FactName.USER_NAME: principal.user_name}
        built = await self._build(
            spec,
            instance_id,
            owner=principal.user_id,
            number=principal.number,
            facts=facts,
            secrets=secrets,
        )
        if spec.oauth is None or not isinstance(built, Dial):
            return built
        if self._bearers is None:
            raise InvalidInput(f"Server '{spec.name}' has OAuth, which needs a running hub.")
        return replace(built, bearer=await self._bearers(permit))

    async def neutral(self, spec: ServerSpec, instance_id: str) -> Launch | Dial:
        """Return the launch of an instance that belongs to nobody: placeholders, no network, an empty home."""
        facts = {FactName.USER_ID: NEUTRAL, FactName.USER_NAME: NEUTRAL}
        secrets = {name: Secret("placeholder") for name in spec.slot_names}
        return await self._build(
            spec, instance_id, owner=NEUTRAL, number=0, facts=facts, secrets=secrets
        )

    async def discard(self, launch: Launch | Dial) -> None:
        """Remove the home of a neutral instance that is gone, and its copies."""
        if isinstance(launch, Launch) and launch.owner == NEUTRAL:
            for place in (launch.home, copies.beside(launch.home)):
                await asyncio.to_thread(discard, place)

    def home(self, owner: str, server: str) -> Path:
        """Return the host path of a home; both parts are opaque or of a checked grammar (rule R23)."""
        return self._homes / owner / server

    async def prove(self, spec: ServerSpec) -> None:
        """Find out how a server may be started, for all starts from then on. Takes seconds."""
        if not self.programs.is_unproven(spec):
            return
        launch = await self.neutral(spec, new_id())
        assert isinstance(launch, Launch)  # only programs are unproven
        try:
            await self.programs.prove(spec, launch)
        finally:
            await self.discard(launch)

    async def _build(
        self,
        spec: ServerSpec,
        instance_id: str,
        *,
        owner: str,
        number: int,
        facts: Mapping[FactName, str],
        secrets: Mapping[str, Secret],
    ) -> Launch | Dial:
        home = (
            self.home(owner, spec.name) if owner != NEUTRAL else self._homes / NEUTRAL / instance_id
        )
        values: dict[str, str | Secret] = {
            f"USER_{slot}": secret for slot, secret in secrets.items()
        }
        values |= {fact.value: text for fact, text in facts.items()}
        values[FactName.USER_HOME.value] = self._home_inside(home)
        told = self._told(spec, owner, secrets)
        if spec.transport is Transport.HTTP:
            dial = _dial(spec, instance_id, owner, values)
            headers = {**dial.headers, **self._identity(spec, owner, secrets)}
            _check_headers(spec, headers)
            return replace(dial, headers=headers, told=told)
        program = await self.programs.of(spec)
        cwd = expand(spec.cwd, values) if spec.cwd else ""
        templates = spec.files
        if owner == NEUTRAL and templates:  # a key may have to be made up
            templates = await asyncio.to_thread(shaped, spec.files, spec.env)
        files = {below: expand(text, values) for below, text in templates.items()}
        own = self._own(spec, program)
        return Launch(
            instance_id=instance_id,
            owner=owner,
            number=number,
            argv=tuple(expand(part, values) for part in program.argv),
            env={name: expand(text, values) for name, text in spec.env.items()} | self._trust(spec),
            files=files or None,
            secrets=tuple(secrets.values()) if owner != NEUTRAL else (),
            home=home,
            cwd=cwd if isinstance(cwd, str) else "",
            readable=_unique(program.readable, (Path(path) for path in spec.sandbox.readable)),
            sandbox=replace(spec.sandbox, egress=(), redirect={})
            if owner == NEUTRAL
            else spec.sandbox,
            told=told,
            own=own,
            # forked, it would run the code that everybody has
            preload=None if own else program.mode.preload,
        )

    def _own(self, spec: ServerSpec, program: Program) -> tuple[Path, ...]:
        """Return the directories of which each owner has a writable copy."""
        if not spec.sandbox.own_package:
            return ()
        if program.source is None:
            raise InvalidInput(
                f"Server '{spec.name}': the directory of its package is not known.",
                hint="Remove `sandbox.ownPackage`: it is for servers that `npx` or `uvx` start.",
            )
        return (program.source,)

    def _told(self, spec: ServerSpec, owner: str, secrets: Mapping[str, Secret]) -> Told:
        context = spec.user_context
        if context is None or owner == NEUTRAL:
            return Told()
        chosen = {slot: secrets[slot] for slot in spec.request_slots if slot in secrets}
        return Told(
            credentials=encrypt(chosen, context.encrypt_to)
            if chosen and context.encrypt_to is not None
            else "",
            key_id=self._signer.key_id if spec.transport is Transport.STDIO else "",
        )

    def _trust(self, spec: ServerSpec) -> dict[str, str | Secret]:
        """Return the variable that tells a program whom to trust; all of it is public."""
        context = spec.user_context
        if context is None or context.send == "never":
            return {}
        return {TRUST_VARIABLE: json.dumps(self._signer.trust(context.audience))}

    def _identity(
        self, spec: ServerSpec, owner: str, secrets: Mapping[str, Secret]
    ) -> dict[str, str | Secret]:
        """Return the headers that tell an HTTP server its user, as far as they are fixed."""
        context = spec.user_context
        if owner == NEUTRAL or (context is None and not spec.request_slots):
            return {}
        pairwise = context is not None and context.pairwise
        user = self._signer.subject(owner, context.audience) if context and pairwise else owner
        headers: dict[str, str | Secret] = {
            "X-MCPHub-User-Id": user,
            "X-MCPHub-Protocol-Version": HEADERS_VERSION,
        }
        if context is None or context.encrypt_to is None:
            headers |= {header_of(slot): secrets[slot] for slot in spec.request_slots}
        return headers


def _dial(
    spec: ServerSpec, instance_id: str, owner: str, values: Mapping[str, str | Secret]
) -> Dial:
    """Return the connection of one owner to an HTTP server.

    A value in its URL is one part of it, whatever characters it has: the operator's credentials that go along
    are for the rest.

    Raises:
        InvalidInput: A user's value would choose the host that the credentials go to (rule R20).
        MissingCredential: A user's value would choose another path.
    """
    url = expand(spec.url, {name: _one_part(value) for name, value in values.items()})
    plain = url.reveal() if isinstance(url, Secret) else url
    written, meant = urlsplit(spec.url), urlsplit(plain)
    if "$" in written.netloc or (written.scheme, written.netloc) != (meant.scheme, meant.netloc):
        raise InvalidInput(
            f"Server '{spec.name}': the host of its url depends on the user.",
            hint="Write the host out; slots belong into headers or the path.",
        )
    if "$" in written.path and {".", ".."} & set(meant.path.split("/")):
        slots = " or ".join(slot.name for slot in spec.slots if "url" in slot.places)
        raise MissingCredential(
            f"A value of yours would make another path of the URL of server '{spec.name}'.",
            hint=f"Set {slots} again: mcphub credential set {spec.name} …" if slots else "",
        )
    headers = {name: expand(text, values) for name, text in spec.headers.items()}
    return Dial(instance_id=instance_id, owner=owner, url=url, headers=headers)


def _one_part(value: str | Secret) -> str | Secret:
    """Return a value as it stands in a URL (RFC 3986 §2.1)."""
    if isinstance(value, Secret):
        return Secret(quote(value.reveal(), safe=""))
    return quote(value, safe="")


def _check_headers(spec: ServerSpec, headers: Mapping[str, str | Secret]) -> None:
    """Refuse what no header can carry (RFC 9110 §5.5): it would begin another header, or never be sent.

    Raises:
        MissingCredential: A value has a line break or another control character; says which slot.
    """
    for name, value in headers.items():
        plain = value.reveal() if isinstance(value, Secret) else value
        if not any((char < " " and char != "\t") or char == "\x7f" for char in plain):
            continue
        places = (f"headers.{name}", REQUEST_PLACE)
        slots = [slot.name for slot in spec.slots if any(place in slot.places for place in places)]
        raise MissingCredential(
            f"The header {name} of server '{spec.name}' would hold a line break or another control "
            "character.",
            hint=f"Set {' or '.join(slots)} again, as one line: mcphub credential set {spec.name} …"
            if slots
            else "An administrator corrects the server's settings.",
        )


def _unique(*groups: Iterable[Path]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(path for group in groups for path in group))
