"""The hub's memory of who may do what: principals, specs, verdicts, credential revisions.

Everything that a warm call asks is answered from here without a database read. `load()` reads anew
whom a change concerns, so a revocation takes effect on the next call, and with thousands of users
nobody waits for the change of one. Not here: the decisions (`policy.decide`), the rows (`identity`,
`vault`, `catalog`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from mcphub.catalog.live import LiveSettings
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState, ServerStates
from mcphub.catalog.versions import exact_version
from mcphub.errors import Denied, HubError, NotFound
from mcphub.identity.directory import Directory
from mcphub.identity.snapshot import PrincipalSnapshot
from mcphub.ids import Clock
from mcphub.policy.decide import decide, may_share
from mcphub.policy.model import (
    Denial,
    HostFacts,
    Isolation,
    Permit,
    Principal,
    ServerFacts,
    Transport,
)
from mcphub.spawn.launching import NEUTRAL, SHARED
from mcphub.store.database import AT_ONCE
from mcphub.vault.vault import CredentialState, Vault

_MAX_VERDICTS = 20_000
_NONE: Mapping[str, CredentialState] = {}


@dataclass(slots=True)
class _State:
    principals: PrincipalSnapshot
    specs: Mapping[str, ServerSpec]
    states: Mapping[str, ServerState]
    credentials: dict[str, dict[str, CredentialState]]
    verdicts: dict[tuple[int, str], tuple[Principal, Permit | Denial]] = field(default_factory=dict)
    revisions: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    owners: dict[str, Principal] = field(default_factory=dict)


class Access:
    """Authentication and authorization from memory.

    Life cycle: `await load()` before the first use and after every change.

    Args:
        directory: Users, groups, keys.
        vault: Revisions of credentials, never values.
        states: Pins, switches and evidence of servers.
        live: The settings file as it is now.
        host: What this machine enforces.
        signing_keys: Names the public keys that servers are told; changes when they do.
        clock: Wall clock.

    Attributes:
        generation: Grows with every `load`: what was remembered of an older one counts no more.
    """

    def __init__(
        self,
        directory: Directory,
        vault: Vault,
        states: ServerStates,
        live: LiveSettings,
        host: HostFacts,
        clock: Clock,
        signing_keys: Callable[[], str],
    ) -> None:
        self._signing_keys = signing_keys
        self._directory, self._vault, self._states, self._live = directory, vault, states, live
        self._host = host
        self._clock = clock
        self._state: _State | None = None
        self.generation = 0

    async def load(self, users: Collection[str] | None = None) -> None:
        """Read anew what is these users' and what is nobody's, and let it count at once.

        Args:
            users: Opaque ids; None for all. Many count as all: those are read some at a time.
        """
        states = await self._states.all()
        if users is None or len(users) > AT_ONCE:
            principals = await self._directory.snapshot()
            credentials = await self._vault.states()
        else:
            people = await self._directory.people(users)
            theirs = await self._vault.states(users)
            # from here to the end nobody else runs: a user is never half of before and half of now
            principals, credentials = self._now.principals, self._now.credentials
            principals.take(people)
            for user_id in users:
                credentials.pop(user_id, None)
            credentials |= theirs
            if states == self._now.states:
                self._forget(users)
                return
        self._state = _State(principals, dict(self._live.current.specs), states, credentials)
        self.generation += 1

    def _forget(self, users: Collection[str]) -> None:
        """Forget what follows from users' groups and credentials; other users' verdicts stay."""
        now = self._now
        now.revisions.clear()
        for user_id in users:
            now.owners.pop(user_id, None)
        self.generation += 1

    def take_settings(self) -> None:
        """Let the settings file as it is now count at once, with what is known of everything else.

        Needs no database: what an edit forbids is forbidden also while there is none.
        """
        now = self._now
        specs = dict(self._live.current.specs)
        self._state = _State(now.principals, specs, now.states, now.credentials)
        self.generation += 1

    @property
    def specs(self) -> Mapping[str, ServerSpec]:
        """All server specs by name."""
        return self._now.specs

    @property
    def active_users(self) -> Collection[str]:
        """Ids of the users who are not disabled."""
        return self._now.principals.users.keys()

    @property
    def states(self) -> Mapping[str, ServerState]:
        """What the store knows of the servers."""
        return self._now.states

    def authenticate(self, bearer: str) -> Principal | None:
        """Return the principal that an API key proves, or None."""
        return self._now.principals.authenticate(bearer, self._clock())

    def verdict(self, principal: Principal, server: str) -> Permit | Denial | None:
        """Return the decision for a principal and a server; None when there is no such server."""
        state = self._now
        key = (id(principal), server)
        known = state.verdicts.get(key)
        if known is not None and known[0] is principal:
            return known[1]
        spec = state.specs.get(server)
        if spec is None:
            return None
        verdict = decide(principal, self._facts(spec), self._host)
        if len(state.verdicts) >= _MAX_VERDICTS:
            state.verdicts.clear()
        state.verdicts[key] = (principal, verdict)
        return verdict

    def permit(self, principal: Principal, server: str) -> tuple[ServerSpec, Permit]:
        """Return spec and permit of a server for a principal.

        Raises:
            NotFound: No such server, or one that the principal may not know of (404 before 403).
            Denied: The principal knows it and may not use it.
        """
        verdict = self.verdict(principal, server)
        if isinstance(verdict, Permit):
            return self._now.specs[server], verdict
        raise refusal(server, verdict)

    def renewed(self, permit: Permit) -> Permit | None:
        """Return the permit as it would be given now; None when its key counts no more, or may not use the server.

        For what takes longer than a moment between the question and the deed.
        """
        was = permit.principal
        now = self._now.principals.holder_of(was.user_id, was.key_id, self._clock())
        verdict = self.verdict(now, permit.server) if now is not None else None
        return verdict if isinstance(verdict, Permit) else None

    def permitted(self, principal: Principal, group: str = "") -> list[tuple[ServerSpec, Permit]]:
        """Return all servers that a principal may use, by name; only those of `group` when given."""
        found: list[tuple[ServerSpec, Permit]] = []
        for name in sorted(self._now.specs):
            spec = self._now.specs[name]
            if group and group not in spec.groups:
                continue
            verdict = self.verdict(principal, name)
            if isinstance(verdict, Permit):
                found.append((spec, verdict))
        return found

    def revision(self, permit: Permit, spec: ServerSpec) -> tuple[str, int]:
        """Return (settings revision, credential revision): what an instance must have been started with."""
        owner = SHARED if permit.isolation is Isolation.SHARED else permit.principal.user_id
        return self._revision(owner, spec)

    def _revision(self, owner: str, spec: ServerSpec) -> tuple[str, int]:
        state = self._now
        known = state.revisions.get((owner, spec.name))
        if known is not None and spec is state.specs.get(spec.name):
            return known
        stored = state.credentials.get(owner, _NONE).get(spec.name)
        pin = state.states.get(spec.name)
        version = pin.pin.version if pin is not None and pin.pin is not None else ""
        # a program is told the keys once, at its start: other keys, another instance
        tells = spec.transport is Transport.STDIO and spec.user_context is not None
        keys = self._signing_keys() if tells else ""
        revision = (spec.revision + version + keys, stored.revision if stored is not None else 0)
        if not tells and spec is state.specs.get(spec.name):
            if len(state.revisions) >= _MAX_VERDICTS:
                state.revisions.clear()
            state.revisions[owner, spec.name] = revision
        return revision

    def is_current(self, owner: str, server: str, revision: tuple[str, int]) -> bool:
        """Whether an instance of this owner and these revisions is what a start would make now."""
        spec = self.specs.get(server)
        if spec is None or (server in self.states and not self.states[server].enabled):
            return False
        if owner == NEUTRAL:
            return True
        return self._revision(owner, spec) == revision and self._may_have(owner, server)

    def _may_have(self, owner: str, server: str) -> bool:
        """Whether the owner of an instance may use its server now, whatever key would ask."""
        if owner == SHARED:
            return may_share(self._facts(self.specs[server]), self._host)
        now, owners = self._clock(), self._now.owners
        known = owners.get(owner)
        if known is None or (known.valid_until is not None and now >= known.valid_until):
            known = self._now.principals.principal_of(owner, now)
            if known is None:
                return False
            owners[owner] = known
        return isinstance(self.verdict(known, server), Permit)

    def _facts(self, spec: ServerSpec) -> ServerFacts:
        """What policy needs to know of a server now."""
        stored = self._now.states.get(spec.name)
        if stored is None:
            return spec.facts(version=exact_version(spec, None))
        version = exact_version(spec, stored.pin)
        return spec.facts(version=version, enabled=stored.enabled, evidence=stored.evidence)

    def missing(self, principal: Principal, spec: ServerSpec) -> tuple[str, ...]:
        """Return the slots of a server that the principal has set no value for."""
        stored = self._now.credentials.get(principal.user_id, _NONE).get(spec.name)
        return tuple(slot for slot in spec.slot_names if stored is None or slot not in stored.slots)

    @property
    def _now(self) -> _State:
        if self._state is None:
            raise RuntimeError("load() comes first")
        return self._state


def refusal(server: str, verdict: Denial | None) -> HubError:
    """Return the error for a denial; what the caller may not know of is not found."""
    if verdict is None or not verdict.visible:
        return NotFound(
            f"There is no server '{server[:64]}' for you.",
            hint="Ask an administrator, or check the name.",
        )
    return Denied(verdict.reason, hint=verdict.hint, code=verdict.rule)
