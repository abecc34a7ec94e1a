"""Every row of the decision table, by name."""

import pytest

from mcphub.policy.decide import decide, explain
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

HOST = HostFacts(sandbox_level=4, minimum_level=3)
PROVEN = Evidence(kind="check", version="1.2.3", by="c_1", at=0.0)


def person(name: str, *groups: str, role: Role = Role.USER) -> Principal:
    return Principal(f"u_{name}", name, 16, role, frozenset({"everyone", *groups}), "k_1")


ALICE = person("alice", "dev")
BOB = person("bob", "sales")
ROOT = person("root", role=Role.ADMIN)


def server(transport: Transport = Transport.STDIO, **facts: object) -> ServerFacts:
    return ServerFacts(
        **{"name": "s", "transport": transport, "groups": frozenset({"dev"}), **facts}  # pyright: ignore[reportArgumentType]
    )


def http(**facts: object) -> ServerFacts:
    return server(Transport.HTTP, **facts)


LOW = {"risk": RiskLevel.LOW, "version": "1.2.3"}
SHAREABLE = {**LOW, "evidence": PROVEN}

PERMITS = {
    "stdio critical gets an own process": (server(risk=RiskLevel.CRITICAL), "user"),
    "stdio high gets an own process": (server(risk=RiskLevel.HIGH), "user"),
    "stdio unclassified gets an own process": (server(evidence=PROVEN, version="1.2.3"), "user"),
    "stdio low that requires user isolation beats evidence": (
        server(**SHAREABLE, requires_user_isolation=True),
        "user",
    ),
    "stdio low with evidence for this version is shared": (server(**SHAREABLE), "shared"),
    "stdio medium with evidence for this version is shared": (
        server(**{**SHAREABLE, "risk": RiskLevel.MEDIUM}),
        "shared",
    ),
    "stdio low with an acknowledgement for this version is shared": (
        server(**LOW, evidence=Evidence("acknowledgement", "1.2.3", "root", 0.0, "read it")),
        "shared",
    ),
    "stdio low without evidence gets an own process": (server(**LOW), "user"),
    "stdio low with evidence for another version gets an own process": (
        server(risk=RiskLevel.LOW, version="1.2.4", evidence=PROVEN),
        "user",
    ),
    "stdio low of unknown version gets an own process": (
        server(risk=RiskLevel.LOW, version="", evidence=Evidence("check", "", "c_1", 0.0)),
        "user",
    ),
    "stdio low with a credential of the user gets an own process": (
        server(**SHAREABLE, per_user_credential=True),
        "user",
    ),
    "stdio low that is told who the user is gets an own process": (
        server(**SHAREABLE, names_user=True),
        "user",
    ),
    "stdio low that asks for user isolation gets it": (
        server(**SHAREABLE, isolation=Isolation.USER),
        "user",
    ),
    "stdio that asks for session isolation gets it": (
        server(isolation=Isolation.SESSION),
        "session",
    ),
    "stdio low with evidence that asks for session isolation gets it": (
        server(**SHAREABLE, isolation=Isolation.SESSION),
        "session",
    ),
    "http user-aware is forwarded per user": (http(user_aware=True), "user"),
    "http with a credential slot is forwarded per user": (http(per_user_credential=True), "user"),
    "http user-aware that asks for session isolation gets it": (
        http(user_aware=True, isolation=Isolation.SESSION),
        "session",
    ),
    "http low with evidence has one connection per user": (http(**SHAREABLE), "user"),
    "builtin is open to its groups": (server(Transport.BUILTIN), "builtin"),
}


@pytest.mark.parametrize("case", PERMITS)
def test_a_member_is_permitted_without_a_warning_and_others_do_not_find_it(case: str) -> None:
    facts, isolation = PERMITS[case]
    permit = decide(ALICE, facts, HOST)
    assert isinstance(permit, Permit), permit
    assert (permit.isolation, permit.warnings) == (Isolation(isolation), ())
    assert permit.principal is ALICE
    assert permit.trace[-1].outcome == "allowed"

    denial = decide(BOB, facts, HOST)
    assert isinstance(denial, Denial)
    assert (denial.rule, denial.visible) == ("not-in-group", False)


ADMINISTRATORS = {
    "http critical without per-user credential": (http(risk=RiskLevel.CRITICAL), HOST),
    "http high without per-user credential": (http(risk=RiskLevel.HIGH), HOST),
    "http unclassified without per-user credential": (http(), HOST),
    "http low that requires user isolation": (
        http(**SHAREABLE, requires_user_isolation=True),
        HOST,
    ),
    "http low without evidence": (http(**LOW), HOST),
    "http medium with evidence for another version": (
        http(risk=RiskLevel.MEDIUM, version="2", evidence=PROVEN),
        HOST,
    ),
    "stdio critical without sandbox, allowed": (server(), HostFacts(0, 0, allow_unsandboxed=True)),
    "stdio critical below the minimum level, allowed": (
        server(risk=RiskLevel.CRITICAL),
        HostFacts(2, 3, allow_unsandboxed=True),
    ),
}


@pytest.mark.parametrize("case", ADMINISTRATORS)
def test_only_administrators_are_permitted_and_with_a_warning(case: str) -> None:
    facts, host = ADMINISTRATORS[case]
    permit = decide(ROOT, facts, host)
    assert isinstance(permit, Permit)
    assert permit.isolation is Isolation.USER
    assert len(permit.warnings) == 1

    denial = decide(ALICE, facts, host)
    assert isinstance(denial, Denial)
    assert denial.visible
    assert denial.hint


HIDDEN = {
    "a server without groups": ("no-groups", server(groups=frozenset())),
    "a server for administrators only": ("admin-only", server(admin_only=True)),
    "a disabled server of another group": (
        "not-in-group",
        server(groups=frozenset({"ops"}), enabled=False),
    ),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_user_is_not_told_of(case: str) -> None:
    rule, facts = HIDDEN[case]
    denial = decide(ALICE, facts, HOST)
    assert isinstance(denial, Denial)
    assert (denial.rule, denial.visible) == (rule, False)


def test_a_server_without_groups_says_how_to_open_it_and_serves_administrators() -> None:
    facts = server(groups=frozenset())
    denial = decide(ALICE, facts, HOST)
    assert isinstance(denial, Denial)
    assert '"groups": ["everyone"]' in denial.hint
    assert isinstance(decide(ROOT, facts, HOST), Permit)


def test_a_server_for_everyone_serves_two_users_with_one_process_each() -> None:
    facts = server(groups=frozenset({"everyone"}))
    permits = [decide(user, facts, HOST) for user in (ALICE, BOB)]
    assert [p.isolation for p in permits if isinstance(p, Permit)] == [Isolation.USER] * 2
    assert [p.principal for p in permits if isinstance(p, Permit)] == [ALICE, BOB]


@pytest.mark.parametrize("caller", [ALICE, ROOT], ids=["member", "administrator"])
def test_a_disabled_server_is_refused_to_everybody_who_may_know_it(caller: Principal) -> None:
    denial = decide(caller, server(enabled=False), HOST)
    assert isinstance(denial, Denial)
    assert (denial.rule, denial.visible) == ("server-disabled", True)
    assert "mcphub server enable s" in denial.hint


WIDER = {
    "stdio critical asks to be shared": server(isolation=Isolation.SHARED),
    "stdio low without evidence asks to be shared": server(**LOW, isolation=Isolation.SHARED),
    "stdio that requires user isolation asks to be shared": server(
        **SHAREABLE, requires_user_isolation=True, isolation=Isolation.SHARED
    ),
    "stdio calls itself builtin": server(isolation=Isolation.BUILTIN),
    "http low with evidence asks to be shared": http(**SHAREABLE, isolation=Isolation.SHARED),
}


@pytest.mark.parametrize("case", WIDER)
def test_isolation_is_never_widened_and_the_permit_says_so(case: str) -> None:
    permit = decide(ALICE, WIDER[case], HOST)
    assert isinstance(permit, Permit)
    assert permit.isolation is Isolation.USER
    assert "policy allows" in permit.warnings[0]


def test_a_shared_server_with_evidence_may_say_that_it_is_shared() -> None:
    permit = decide(ALICE, server(**SHAREABLE, isolation=Isolation.SHARED), HOST)
    assert isinstance(permit, Permit)
    assert (permit.isolation, permit.warnings) == (Isolation.SHARED, ())


def test_a_user_aware_http_server_that_requires_isolation_carries_a_warning() -> None:
    permit = decide(ALICE, http(user_aware=True, requires_user_isolation=True), HOST)
    assert isinstance(permit, Permit)
    assert "must keep users apart" in permit.warnings[0]


REFUSED_BY_HOST = {
    "critical without a sandbox": (server(risk=RiskLevel.CRITICAL), HostFacts(0, 0)),
    "unclassified without a sandbox": (server(), HostFacts(0, 0)),
    "unclassified below the minimum": (server(), HostFacts(2, 3)),
    "high without a sandbox": (server(risk=RiskLevel.HIGH), HostFacts(0, 3)),
    "low without a sandbox": (server(**SHAREABLE), HostFacts(0, 0)),
}


@pytest.mark.parametrize("caller", [ALICE, ROOT], ids=["member", "administrator"])
@pytest.mark.parametrize("case", REFUSED_BY_HOST)
def test_a_host_without_the_needed_sandbox_refuses(case: str, caller: Principal) -> None:
    facts, host = REFUSED_BY_HOST[case]
    denial = decide(caller, facts, host)
    assert isinstance(denial, Denial)
    assert denial.rule == "sandbox-unavailable"
    assert "--allow-unsandboxed" in denial.hint


@pytest.mark.parametrize("facts", [server(risk=RiskLevel.HIGH), server(**SHAREABLE)])
def test_an_allowed_unsandboxed_server_runs_once_per_user_with_a_warning(
    facts: ServerFacts,
) -> None:
    permit = decide(ALICE, facts, HostFacts(0, 3, allow_unsandboxed=True))
    assert isinstance(permit, Permit)
    assert permit.isolation is Isolation.USER
    assert "no sandbox" in permit.warnings[0]


def test_a_server_that_is_not_critical_runs_below_the_minimum_level() -> None:
    permit = decide(ALICE, server(risk=RiskLevel.HIGH), HostFacts(1, 3))
    assert isinstance(permit, Permit)
    assert permit.warnings == ()


@pytest.mark.parametrize("risk", [None, *RiskLevel])
def test_each_class_of_risk_has_its_own_minimum_level(risk: RiskLevel | None) -> None:
    minima = {RiskLevel.HIGH: 4, RiskLevel.MEDIUM: 3, RiskLevel.LOW: 2}
    needed = minima.get(risk or RiskLevel.CRITICAL, 5)
    for level in range(6):
        host = HostFacts(level, 5, minimum_high=4, minimum_medium=3, minimum_low=2)
        decision = decide(ALICE, server(risk=risk), host)
        assert isinstance(decision, Permit) == (level >= needed), (level, decision)
        if isinstance(decision, Denial):
            assert decision.rule == "sandbox-unavailable"


def test_no_sandbox_is_asked_of_servers_that_do_not_run_here() -> None:
    assert isinstance(decide(ALICE, http(user_aware=True), HostFacts(0, 3)), Permit)
    assert isinstance(decide(ALICE, server(Transport.BUILTIN), HostFacts(0, 3)), Permit)


def test_a_permit_filters_tools_case_sensitively_and_deny_wins() -> None:
    permit = decide(ALICE, server(tools_allow=("get_*", "put_x"), tools_deny=("*_secret",)), HOST)
    assert isinstance(permit, Permit)
    names = ("get_a", "put_x", "put_y", "GET_a", "get_secret")
    assert [name for name in names if permit.allows_tool(name)] == ["get_a", "put_x"]


def test_the_same_patterns_are_compiled_once() -> None:
    facts = server(tools_allow=("a*",))
    first, second = (decide(user, facts, HOST) for user in (ALICE, ROOT))
    assert isinstance(first, Permit)
    assert isinstance(second, Permit)
    assert first.allows_tool is second.allows_tool


def test_a_permit_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Permit(ALICE, "s", Isolation.SHARED, lambda name: True)


def test_explain_names_the_group_the_row_and_the_tool_pattern() -> None:
    facts = server(tools_deny=("drop_*",))
    steps = explain(ALICE, facts, HOST, tool="drop_table")
    assert [s.rule for s in steps] == [
        "groups", "enabled", "stdio-own-process", "sandbox", "permit", "mechanism", "tools.deny",
    ]  # fmt: skip
    assert steps[-1].outcome == "hidden"
    assert explain(ALICE, facts, HOST, tool="list")[-1].outcome == "allowed"
    allow = server(tools_allow=("list",))
    assert explain(ALICE, allow, HOST, tool="list")[-1].finding == '"list" matches "list"'
    assert explain(ALICE, allow, HOST, tool="drop")[-1].outcome == "hidden"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (server(), "own process in an own sandbox for each user"),
        (server(isolation=Isolation.SESSION), "own sandbox for each session"),
        (server(**SHAREABLE), "evidence says"),
        (server(**SHAREABLE, user_aware=True), "the user that the hub tells it"),
        (http(user_aware=True), "the user that the hub tells it"),
        (http(per_user_credential=True), "the user's own credential"),
        (http(**SHAREABLE), "evidence says"),
        (http(), "nothing but an own connection"),
    ],
    ids=[
        "program",
        "session",
        "shared",
        "shared aware",
        "aware",
        "credential",
        "evidence",
        "nothing",
    ],
)
def test_explain_says_what_keeps_the_users_apart(facts: ServerFacts, words: str) -> None:
    who = ROOT if facts == http() else ALICE
    steps = {step.rule: step.finding for step in explain(who, facts, HOST)}
    assert words in steps["mechanism"]


def test_explain_of_a_denial_ends_with_the_hint() -> None:
    steps = explain(BOB, server(), HOST)
    assert steps[-1].rule == "hint"
    assert explain(ROOT, http(), HOST)[-1].rule == "warning"
