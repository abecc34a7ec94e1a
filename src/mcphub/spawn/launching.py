"""From a permit and a spec to a `Launch`: program, templates, credentials, home.

This is the only place where a user's secrets are opened, right before the process starts. The
permit names the user; nothing else can (rules R4, R5). Not here: starting (`spawner`), when
(`pool`).
"""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import structlog

from mcphub.catalog.identity import REQUEST_PLACE, header_of
from mcphub.catalog.launchers import PYPI, packages_of, satisfies
from mcphub.catalog.older_sdk import OLDER_SDK, holds_back_sdk, needs_older_sdk
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.pins import Pin
from mcphub.catalog.spec import FactName, ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.templates import expand
from mcphub.catalog.versions import exact_version
from mcphub.errors import HubError, InvalidInput, MissingCredential
from mcphub.ids import instance_id as new_id
from mcphub.policy.model import Isolation, Permit, Transport
from mcphub.spawn import copies
from mcphub.spawn.discarding import discard
from mcphub.spawn.modes import Prover, StartMode, mode_of, plain
from mcphub.spawn.program import readable_of
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
_UNPROVEN: Final = plain("It is not known yet whether it may be started otherwise.")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Program:
    """What is executed for a spec, before templates are filled.

    Attributes:
        argv: Program (absolute path) and templates of its arguments.
        readable: Host paths that it needs to read.
        version: Exact package version, or a digest of the command for anything else.
        source: Directory of the package's own files, where it is known.
        mode: How it is started.
    """

    argv: tuple[str, ...]
    readable: tuple[Path, ...]
    version: str
    source: Path | None = None
    mode: StartMode = _UNPROVEN


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
    """Builds launches. Safe for concurrent use; a package is resolved and installed once.

    Args:
        homes: Directory of all homes on the host.
        packages: The pinned package store.
        states: Pins of the servers.
        vault: Users' credentials.
        signer: Signs user contexts; says here whom servers may trust.
        home_inside: Host path of a home -> path that the instance sees.
        search_path: `PATH` in which command names are looked up.
        prover: Finds out which programs may be forked; without one none is.
        bearers: Gives the connection of a permit's user to a server with OAuth.
        progress: Told what an installation is doing.
    """

    def __init__(
        self,
        *,
        homes: Path,
        packages: PackageStore,
        states: ServerStates,
        vault: Vault,
        signer: ContextSigner,
        home_inside: Callable[[Path], str],
        search_path: str,
        prover: Prover | None = None,
        bearers: Callable[[Permit], Awaitable[Bearer]] | None = None,
        progress: Callable[[str], None] = lambda text: _log.info("install", step=text),
    ) -> None:
        self._homes = homes
        self._packages = packages
        self._states = states
        self._vault = vault
        self._signer = signer
        self._home_inside = home_inside
        self._search_path = search_path
        self._prover = prover
        self._bearers = bearers
        self._progress = progress
        self._programs: dict[tuple[str, str], Program] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def known_program(self, spec: ServerSpec) -> Program | None:
        """Return the program when it is already resolved; no I/O."""
        return self._programs.get((spec.name, spec.revision))

    def fixed_code(self, spec: ServerSpec) -> Path | None:
        """Return the package's directory that instances cannot write to; None when they can, or it is not known."""
        program = self.known_program(spec)
        return program.source if program is not None and not spec.sandbox.own_package else None

    def forget(self, name: str) -> None:
        """Resolve a server's program anew at the next start: its pin or its spec changed."""
        for key in [key for key in self._programs if key[0] == name]:
            del self._programs[key]

    async def program(self, spec: ServerSpec) -> Program:
        """Return what to execute, installing the pinned package when it is not there yet.

        Raises:
            InvalidInput: The command does not exist or the launcher's arguments are not understood.
            UpstreamFailed, Unavailable: The package could not be installed.
        """
        known = self.known_program(spec)
        if known is not None:
            return known
        async with self._locks.setdefault(spec.name, asyncio.Lock()):
            known = self.known_program(spec)
            if known is None:
                known = self._with_mode(spec, await self._resolve(spec))
                self._programs[(spec.name, spec.revision)] = known
            return known

    async def prepare(self, spec: ServerSpec) -> None:
        """Do what may take minutes before a start: install the package. Raises as `program`."""
        if spec.transport is Transport.STDIO:
            await self.program(spec)

    async def version(self, spec: ServerSpec) -> str:
        """Return the exact version of what a spec runs or reaches. Raises as `program`."""
        if spec.transport is Transport.STDIO:
            return (await self.program(spec)).version
        return exact_version(spec, None)

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

    async def _resolve(self, spec: ServerSpec) -> Program:
        requirement = self._packages.requirement(spec.command, spec.args)
        if requirement is None:
            return self._plain(spec)
        state = (await self._states.all()).get(spec.name)
        pin: Pin | None = state.pin if state is not None else None
        if pin is not None and not satisfies(pin, requirement):
            if (pin.ecosystem, pin.name) == (requirement.ecosystem, requirement.name):
                # a version change needs an administrator's word (rule R22): the pin still counts
                _log.warning(
                    "server.pin_differs",
                    server=spec.name,
                    pinned=pin.version,
                    settings=requirement.version or "latest",
                    next_step=f"mcphub server pin {spec.name}",
                )
            else:
                pin = None
        if pin is None:
            self._progress(f"{spec.name}: looking up {requirement.name}")
            pin = await self._packages.resolve(requirement)
            await self._states.set_pin(spec.name, pin)
        installed = self._packages.installed(pin, requirement)
        if installed is None:
            installed = await self._packages.install(pin, requirement, self._progress)
        argv = (*installed.argv, *requirement.args)
        return Program(argv, installed.readable, installed.version, installed.source)

    async def pin_older_sdk(self, spec: ServerSpec, error: HubError) -> bool:
        """Pin a server's package with the older SDK, when a start failed because it needs that.

        The package itself keeps its version and its hash.

        Args:
            spec: The server.
            error: Why nobody's instance did not start, with its last words.

        Returns:
            Whether another start is worth a try.
        """
        if spec.transport is not Transport.STDIO or not needs_older_sdk(error.message):
            return False
        requirement = self._packages.requirement(spec.command, spec.args)
        state = (await self._states.all()).get(spec.name)
        pin = state.pin if state is not None else None
        if (
            requirement is None
            or pin is None
            or pin.ecosystem != PYPI
            or packages_of(pin.constraints)
            or holds_back_sdk(requirement.extras)
        ):
            return False
        try:
            exact = replace(requirement, version=f"=={pin.version}")
            older = await self._packages.resolve(exact, OLDER_SDK)
        except HubError as failure:
            _log.warning("server.older_sdk_failed", server=spec.name, error=str(failure))
            return False
        if older.integrity != pin.integrity:
            return False
        _log.warning(
            "server.older_sdk",
            server=spec.name,
            package=f"{pin.name} {pin.version}",
            constraints=list(OLDER_SDK),
            why="It was written for mcp 1 and ends with mcp 2; it is installed with the older one.",
        )
        await self._states.set_pin(spec.name, older)
        self.forget(spec.name)
        return True

    def _plain(self, spec: ServerSpec) -> Program:
        found = shutil.which(spec.command, path=self._search_path)
        if found is None:
            raise InvalidInput(
                f"Server '{spec.name}': the program '{Path(spec.command).name}' is not on this machine.",
                hint="Install it, or correct `command` in mcp_settings.json.",
            )
        program = Path(found).absolute()
        readable = readable_of(program)
        if any(self._homes.is_relative_to(place) for place in readable):
            raise InvalidInput(
                f"Server '{spec.name}': its program lies in a directory that holds the hub's own.",
                hint="Install it somewhere else.",
            )
        return Program((str(program), *spec.args), readable, exact_version(spec, None))

    def is_unproven(self, name: str) -> bool:
        """Tell whether `prove` has something to find out about a server that was started."""
        return self._prover is not None and any(
            program.mode is _UNPROVEN
            for (server, _), program in self._programs.items()
            if server == name
        )

    async def prove(self, spec: ServerSpec) -> None:
        """Find out how a server may be started, for all starts from then on. Takes seconds."""
        known = self.known_program(spec)
        if self._prover is None or known is None or known.mode is not _UNPROVEN:
            return
        launch = await self.neutral(spec, new_id())
        assert isinstance(launch, Launch)  # only programs are unproven
        try:
            await self._prover.prove(launch)
        finally:
            await self.discard(launch)
        if self.known_program(spec) is known:
            self._programs[(spec.name, spec.revision)] = self._with_mode(spec, known)

    def _with_mode(self, spec: ServerSpec, program: Program) -> Program:
        if self._prover is None:
            return program
        mode = mode_of(spec, program.argv, self._prover.findings)
        return program if mode is None else replace(program, mode=mode)

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
        program = await self.program(spec)
        cwd = expand(spec.cwd, values) if spec.cwd else ""
        own = self._own(spec, program)
        return Launch(
            instance_id=instance_id,
            owner=owner,
            number=number,
            argv=tuple(expand(part, values) for part in program.argv),
            env={name: expand(text, values) for name, text in spec.env.items()} | self._trust(spec),
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
