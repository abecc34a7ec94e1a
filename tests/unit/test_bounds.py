"""What is kept for a client until it asks is bounded, in bytes as well as in number."""

import json
from types import SimpleNamespace

import pytest

from mcphub.gateway.listen import Outlet, Outlets
from mcphub.gateway.task_owners import TaskOwners
from mcphub.spawn.launching import SHARED
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.outgoing import Outgoing
from mcphub.wire import envelope

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def test_messages_that_wait_for_a_client_are_bounded_in_bytes():
    exchange = Exchange(Outgoing("tools/call", 1), {}, 1, started=0)
    params = b'{"x":"' + b"x" * 3 * MIB + b'"}'
    large = envelope.parse(envelope.notification("notifications/progress", params))
    assert [exchange.event(large) for _ in range(4)] == [True, True, False, False]
    assert len(await exchange.next()) == 2 and exchange.event(large)

    outlets, outlet = Outlets(), Outlet(user_id="u_1", covers=lambda _: True)
    outlets.add(outlet)
    for _ in range(20):
        outlet.offer("one", large)
    assert len(await outlet.next(0)) == 2


async def test_tasks_of_one_user_push_out_nobody_elses():
    owners = TaskOwners()

    def told(user, task_id):
        result = json.dumps({"task": {"taskId": task_id, "status": "working"}}).encode()
        owners.take(user, "one", envelope.parse(envelope.result(b"1", result)))

    told("u_bob", "his")
    for number in range(60_000):
        told("u_alice", f"hers-{number}")
    told("u_alice", "x" * 2000)
    assert owners.servers("u_bob", "his") == {"one"}
    assert owners.servers("u_alice", "hers-59999") and not owners.servers("u_alice", "hers-1")
    assert not owners.servers("u_alice", "x" * 2000)


async def test_a_shared_servers_list_change_says_nothing_else():
    """What a server that several users share got of one of them must not reach the others that way."""
    outlets, outlet = Outlets(), Outlet(user_id="u_bob", covers=lambda _: True)
    outlets.add(outlet)
    params = b'{"_meta":{"of":"alice"},"x":"alice"}'
    changed = envelope.parse(envelope.notification("notifications/tools/list_changed", params))
    outlets.publish(SimpleNamespace(owner=SHARED, server="one"), changed)
    assert await outlet.next(0) == [
        b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'
    ]
