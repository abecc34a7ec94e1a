"""Server specs: what an entry of `mcp_settings.json` means once it has been parsed and checked.

Values only; `catalog.settings_file` makes them, `spawn` and `gateway` read them. A spec holds
templates, never a user's secret.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from mcphub.catalog.identity import REQUEST_PLACE, UserContextSpec
from mcphub.catalog.oauth import OAUTH_PLACE, OAuthSpec
from mcphub.policy.model import Evidence, Isolation, RiskLevel, ServerFacts, Transport
from mcphub.wire.codes import META_USER_CONTEXT, Dialect

_EMPTY: Mapping[str, str] = MappingProxyType({})
CHECKED_SETTINGS = "check:"
"""Who gives the evidence of an isolation check: this, and the revision of the settings."""


class FactName(StrEnum):
    """Facts about the caller that a template may use; not secrets."""

    USER_ID = "USER_ID"
    USER_NAME = "USER_NAME"
    USER_HOME = "USER_HOME"


@dataclass(frozen=True, slots=True)
class Slot:
    """A credential slot: one value that each user sets for one server (`${USER_<NAME>}`).

    Attributes:
        name: The slot's name without `USER_`, e.g. `GITHUB_TOKEN`.
        places: Where the template stands, e.g. `env.GITHUB_PERSONAL_ACCESS_TOKEN`.
    """

    name: str
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The `sandbox` object of a server.

    Attributes:
        egress: Allowed destinations: `host` (TLS on 443), `*.host`, `host:port` (plain TCP),
            `ip:port`. Empty means no network at all.
        redirect: `host:port` as the server says it -> `host:port` where the gateway really goes;
            for on-premises mirrors and stand-ins. Implies that the key is allowed.
        readable: Absolute host paths that the instance may read, beside `/usr` and its package.
        memory_mb: Memory limit in MiB, swap not counted.
        pids: Most processes and threads.
        cpu: Most processor time, in cores.
        files: Most open files for one process.
        tmp_mb: Size of `/tmp` and of `/dev/shm` in MiB.
        home_mb: Most that the home may hold, in MiB; also the largest file.
        idle_s: Seconds without a call after which an instance is stopped or paused.
        pause: Pause it then and keep its memory, because its state is worth more.
        start: `auto`, or `plain`: every instance is started by executing its program.
        own_package: Each user has an own, writable copy of the package's directory.
    """

    egress: tuple[str, ...] = ()
    redirect: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    readable: tuple[str, ...] = ()
    memory_mb: int = 512
    pids: int = 128
    cpu: float = 1.0
    files: int = 1024
    tmp_mb: int = 64
    home_mb: int = 2048
    idle_s: float = 600.0
    pause: bool = False
    start: Literal["auto", "plain"] = "auto"
    own_package: bool = False


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One server of the settings.

    Attributes:
        name: `[a-z0-9][a-z0-9-]{0,62}`, the key everywhere.
        title: Free display name.
        transport: How it is reached.
        command: Program for stdio servers, as written (`npx`, `uvx`, an absolute path, a name in PATH).
        args, env, headers, url, cwd: Templates, as written.
        files: Path below the home -> text of the file that the server finds there; templates.
        slots: Credential slots, found from the templates.
        risk, requires_user_isolation, user_aware, isolation, admin_only, enabled, groups,
        tools_allow, tools_deny, sandbox: As in the settings.
        user_context: How the server is told its user; None when it is not.
        oauth: How users connect their accounts; None when it has no OAuth.
        timeout_s: Time limit of one call; None for that of the hub (`limits.call_timeout_s`).
        dialect: What the administrator says that it speaks; None to find out.
        sse: It is reached over HTTP with SSE (2024-11-05), as far as the settings know.
        roots: It may ask for a client's directories.
        revision: Digest of everything above that changes a running instance.
    """

    name: str
    title: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    files: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    cwd: str = ""
    slots: tuple[Slot, ...] = ()
    risk: RiskLevel | None = None
    requires_user_isolation: bool = False
    user_aware: bool = False
    user_context: UserContextSpec | None = None
    oauth: OAuthSpec | None = None
    isolation: Isolation | None = None
    admin_only: bool = False
    enabled: bool = True
    groups: frozenset[str] = frozenset()
    tools_allow: tuple[str, ...] = ()
    tools_deny: tuple[str, ...] = ()
    sandbox: SandboxSpec = SandboxSpec()
    timeout_s: float | None = None
    dialect: Dialect | None = None
    sse: bool = False
    roots: bool = False
    revision: str = ""

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the credential slots, sorted."""
        return tuple(sorted(slot.name for slot in self.slots))

    @property
    def request_slots(self) -> tuple[str, ...]:
        """Names of the slots whose credential goes with each request (`credentialSlots`), sorted."""
        return tuple(sorted(slot.name for slot in self.slots if REQUEST_PLACE in slot.places))

    @property
    def offers(self) -> Mapping[str, object]:
        """Capabilities that the hub has towards this server: that it can say who the user is.

        Servers of the legacy era know extensions under either name (docs/reference/user-context.md).
        """
        if self.user_context is None or self.user_context.send == "never":
            return {}
        offer = {META_USER_CONTEXT: {"versions": ["1"]}}
        return {"extensions": offer, "experimental": offer}

    def facts(
        self, *, version: str = "", enabled: bool = True, evidence: Evidence | None = None
    ) -> ServerFacts:
        """Return what policy needs to know; `version`, `enabled` and `evidence` come from the store.

        A check speaks of one revision of the settings only: of another one it is no evidence.
        """
        if evidence is not None and evidence.by.startswith(CHECKED_SETTINGS):
            checked = evidence.by.removeprefix(CHECKED_SETTINGS)
            evidence = evidence if self.revision.startswith(checked) else None
        # Of an HTTP server only what travels with a request counts; of a process everything does.
        travels = (
            ("headers.", "url", REQUEST_PLACE, OAUTH_PLACE)
            if self.transport is Transport.HTTP
            else ("",)
        )
        per_user = any(place.startswith(travels) for slot in self.slots for place in slot.places)
        texts = (*self.args, *self.env.values(), *self.files.values(), *self.headers.values())
        return ServerFacts(
            name=self.name,
            transport=self.transport,
            risk=self.risk,
            requires_user_isolation=self.requires_user_isolation,
            user_aware=self.user_aware,
            isolation=self.isolation,
            admin_only=self.admin_only,
            enabled=self.enabled and enabled,
            groups=self.groups,
            tools_allow=self.tools_allow,
            tools_deny=self.tools_deny,
            per_user_credential=per_user,
            names_user=any("${USER_" in text for text in (*texts, self.url, self.cwd)),
            version=version,
            evidence=evidence,
        )
