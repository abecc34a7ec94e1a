"""Policy is monotone: less right, less evidence or less sandbox never permits more."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mcphub.policy.decide import decide, may_share
from mcphub.policy.model import (
    Denial,
    Evidence,
    HostFacts,
    Isolation,
    Permit,
    Principal,
    RiskLevel,
    Role,
    ServerFacts,
    Transport,
)

GROUPS = st.frozensets(st.sampled_from(["everyone", "dev", "ops", "sales"]))
VERSIONS = st.sampled_from(["", "1.0.0", "1.0.1"])
PATTERNS = st.text(alphabet="ab*?[]!-_", max_size=6)
TOOLS = st.text(alphabet="ab_-", min_size=1, max_size=6)
WIDTH = {Isolation.SESSION: 1, Isolation.USER: 2, Isolation.SHARED: 3, Isolation.BUILTIN: 3}

principals = st.builds(
    Principal,
    user_id=st.just("u_1"),
    user_name=st.just("alice"),
    number=st.just(16),
    role=st.sampled_from(Role),
    groups=GROUPS.map(lambda groups: groups | {"everyone"}),
    key_id=st.just("k_1"),
)
any_servers = st.builds(
    ServerFacts,
    name=st.just("s"),
    transport=st.sampled_from(Transport),
    risk=st.none() | st.sampled_from(RiskLevel),
    requires_user_isolation=st.booleans(),
    user_aware=st.booleans(),
    isolation=st.none() | st.sampled_from(Isolation),
    admin_only=st.booleans(),
    enabled=st.booleans(),
    groups=GROUPS,
    tools_allow=st.lists(PATTERNS, max_size=2).map(tuple),
    tools_deny=st.lists(PATTERNS, max_size=2).map(tuple),
    per_user_credential=st.booleans(),
    names_user=st.booleans(),
    version=VERSIONS,
    evidence=st.none()
    | st.builds(
        Evidence,
        kind=st.sampled_from(["check", "acknowledgement"]),
        version=VERSIONS,
        by=st.just("root"),
        at=st.just(0.0),
    ),
)
# Most of any servers are refused at the first rule: half of those tried are open to everyone, and
# half of these could be shared but for what evidence says.
open_servers = any_servers.map(
    lambda server: replace(
        server, groups=frozenset({"everyone"}), enabled=True, admin_only=False, isolation=None
    )
)
shareable_servers = st.builds(
    lambda server, risk: replace(
        server,
        transport=Transport.STDIO,
        risk=risk,
        requires_user_isolation=False,
        per_user_credential=False,
        names_user=False,
        version="1.0.0",  # evidence often speaks of it
    ),
    open_servers,
    st.none() | st.sampled_from([RiskLevel.LOW, RiskLevel.MEDIUM]),
)
servers = any_servers | open_servers | shareable_servers
hosts = st.builds(
    HostFacts,
    sandbox_level=st.integers(0, 5),
    minimum_level=st.integers(0, 5),
    allow_unsandboxed=st.booleans(),
    minimum_high=st.integers(0, 5),
    minimum_medium=st.integers(0, 5),
    minimum_low=st.integers(0, 5),
)


def permits_no_more(weaker: Permit | Denial, stronger: Permit | Denial) -> bool:
    """Whether `weaker` is a denial or at most as wide as a permitted `stronger`."""
    if isinstance(weaker, Denial):
        return True
    return isinstance(stronger, Permit) and WIDTH[weaker.isolation] <= WIDTH[stronger.isolation]


@given(principals, servers, hosts, st.sampled_from(["everyone", "dev", "ops", "sales"]))
def test_leaving_a_group_or_the_role_never_grants(
    principal: Principal, server: ServerFacts, host: HostFacts, group: str
) -> None:
    before = decide(principal, server, host)
    assert permits_no_more(
        decide(replace(principal, groups=principal.groups - {group}), server, host), before
    )
    assert permits_no_more(decide(replace(principal, role=Role.USER), server, host), before)


@given(principals, servers, hosts, PATTERNS, TOOLS)
def test_adding_a_deny_pattern_never_shows_a_tool(
    principal: Principal, server: ServerFacts, host: HostFacts, pattern: str, tool: str
) -> None:
    before = decide(principal, server, host)
    after = decide(principal, replace(server, tools_deny=(*server.tools_deny, pattern)), host)
    assert isinstance(before, Permit) == isinstance(after, Permit)
    if isinstance(before, Permit) and isinstance(after, Permit):
        assert not after.allows_tool(tool) or before.allows_tool(tool)


@given(principals, servers, hosts, st.integers(0, 5))
def test_a_lower_sandbox_level_never_permits_more(
    principal: Principal, server: ServerFacts, host: HostFacts, level: int
) -> None:
    lower = replace(host, sandbox_level=min(level, host.sandbox_level))
    assert permits_no_more(decide(principal, server, lower), decide(principal, server, host))


@given(principals, servers, hosts)
def test_without_evidence_for_the_version_nothing_is_shared(
    principal: Principal, server: ServerFacts, host: HostFacts
) -> None:
    decision = decide(principal, server, host)
    if isinstance(decision, Permit) and decision.isolation is Isolation.SHARED:
        assert server.evidence is not None
        assert server.evidence.version == server.version != ""
        assert server.risk in (RiskLevel.LOW, RiskLevel.MEDIUM)
        assert not server.requires_user_isolation
        assert not server.per_user_credential
    bare = decide(principal, replace(server, evidence=None), host)
    assert permits_no_more(bare, decision)
    assert isinstance(bare, Denial) or bare.isolation is not Isolation.SHARED


@settings(max_examples=1000)  # few servers are permitted at all; a hundred may show no difference
@given(principals, servers, hosts)
def test_unclassified_permits_exactly_what_critical_does(
    principal: Principal, server: ServerFacts, host: HostFacts
) -> None:
    unclassified = decide(principal, replace(server, risk=None), host)
    critical = decide(principal, replace(server, risk=RiskLevel.CRITICAL), host)
    assert permits_no_more(unclassified, critical)
    assert permits_no_more(critical, unclassified)


@given(principals, servers, hosts)
def test_an_isolation_that_is_asked_for_never_widens(
    principal: Principal, server: ServerFacts, host: HostFacts
) -> None:
    derived = decide(principal, replace(server, isolation=None), host)
    assert permits_no_more(decide(principal, server, host), derived)


@given(principals, servers, hosts)
def test_every_decision_is_explained(
    principal: Principal, server: ServerFacts, host: HostFacts
) -> None:
    decision = decide(principal, server, host)
    assert decision.trace
    if isinstance(decision, Denial):
        assert decision.rule == decision.trace[-1].rule
        assert decision.reason


@given(principals, servers, hosts)
def test_a_process_is_shared_only_where_it_may_be_for_everybody(
    principal: Principal, server: ServerFacts, host: HostFacts
) -> None:
    decision = decide(principal, server, host)
    if isinstance(decision, Permit):
        assert may_share(server, host) == (decision.isolation is Isolation.SHARED)
