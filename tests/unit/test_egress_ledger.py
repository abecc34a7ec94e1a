"""What instances did with their network is counted per user, bounded, and handed out once."""

from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.egress.ledger import EgressLedger

OWNERS = {"i_1": ("u_alice", "github"), "i_2": ("u_bob", "github")}


def ledger() -> EgressLedger:
    made = EgressLedger()
    made.whose = OWNERS.get
    return made


def test_each_users_connections_and_bytes_are_counted_apart() -> None:
    found = ledger()
    for _ in range(3):
        found.take(EgressEvent("i_1", "allowed", "api.github.com", 443))
    found.take(EgressEvent("i_1", "closed", "api.github.com", 443, sent=10, received=2000))
    found.take(EgressEvent("i_2", "refused", "evil.example", 53, "name not in the egress list"))
    assert found.counts("i_1") == {"connections": 3, "refused": 0, "sent": 10, "received": 2000}
    assert found.refused("i_2") == {"evil.example:53": 1}
    due = dict(found.due())
    assert due["u_alice"] == {
        "server": "github",
        "sent": "10",
        "received": "2000",
        "allowed": "3",
        "allowed_to": "api.github.com:443 (3)",
    }
    assert due["u_bob"]["refused_to"] == "evil.example:53 (1)"
    assert found.due() == []


def test_bytes_of_a_connection_that_outlives_its_instance_still_count_for_its_user() -> None:
    owners = dict(OWNERS)
    found = ledger()
    found.whose = owners.get
    found.take(EgressEvent("i_1", "allowed", "a.example", 443))
    found.forget("i_1")
    del owners["i_1"]
    found.take(EgressEvent("i_1", "closed", "a.example", 443, sent=7, received=8))
    assert dict(found.due())["u_alice"]["sent"] == "7"
    assert found.counts("i_1")["sent"] == 0


def test_a_server_that_dials_everything_makes_no_endless_list() -> None:
    found = ledger()
    for number in range(5_000):
        found.take(EgressEvent("i_1", "refused", f"host{number}.example", 53))
    assert len(found.refused("i_1")) == 100
    ((_, detail),) = found.due()
    assert detail["refused"] == "100"
    assert detail["others"] == "4900"
    assert len(detail["refused_to"]) < 2_000


def test_events_of_nobody_are_dropped() -> None:
    found = ledger()
    found.take(EgressEvent("probe-1", "refused", "x.example", 53))
    assert found.due() == []
