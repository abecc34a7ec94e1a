"""Names whose name servers never answer hold up nobody who asks for another one."""

import asyncio
import contextlib
import socket
import threading
from collections import Counter

import anyio
import pytest
from tests.polling import until

from mcphub.errors import HubError
from mcphub.names import MOST_EACH, addresses
from mcphub.oauth.fetching import Fetcher
from mcphub.spawn.egress import relay
from mcphub.tasks import Tasks
from mcphub.upstream.bodies import Stream
from mcphub.upstream.http1 import Client

pytestmark = pytest.mark.anyio
MANY = 40  # more than any loop has threads


@pytest.fixture
def system(monkeypatch):
    """The system's resolver: `slow…` gets no answer until the end, `no…` does not exist."""

    class System:
        asked, over = Counter(), threading.Event()

    real = socket.getaddrinfo

    def ask(host, port, *more, flags=0, **options):
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, *more, flags=flags, **options)
        System.asked[host] += 1
        if host.startswith("slow"):
            System.over.wait(60)
        if host.startswith("no"):
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    yield System
    System.over.set()


async def fetched(host, port):
    with contextlib.suppress(HubError):  # refused for its address, which had to be found first
        await Fetcher(f"server-{host}").get(f"https://{host}:{port}/")


async def dialled(host, port):
    async with Tasks() as tasks:
        client = Client(f"http://{host}:{port}/", {}, tasks)
        stream = Stream(1000, lambda _kind, _data: None)
        request = client.send("GET", stream)
        try:
            await stream.ended
        finally:
            request.close()
            client.close()


async def let_out(host, port):
    await relay.resolve(f"instance-{host}", (host, port))


@pytest.mark.parametrize("way", [fetched, dialled, let_out])
async def test_a_name_that_nobody_answers_holds_up_no_other(system, way):
    async with anyio.create_task_group() as others:
        for number in range(MANY):
            others.start_soon(way, f"slow{number}.test", 9)
        await until(lambda: len(system.asked) >= 4)
        with anyio.fail_after(5):
            await way("quick.test", 9)
        assert system.asked["quick.test"] == 1
        system.over.set()


async def test_a_name_is_asked_for_once_by_all_who_want_it_now(system):
    async with anyio.create_task_group() as all_of_them:
        for number in range(20):
            all_of_them.start_soon(addresses, "slow.test", 443, f"owner-{number}")
        await until(lambda: system.asked)
        with anyio.move_on_after(0.1):
            await addresses("slow.test", 443, "one who gives up")
        assert system.asked == {"slow.test": 1}
        system.over.set()
    assert (await addresses("slow.test", 443, "later"))[0][4] == ("127.0.0.1", 443)
    assert system.asked == {"slow.test": 2}


async def test_an_owner_has_only_so_many_at_once_and_nobody_else_waits_for_that(system):
    got = []

    async def look(name):
        got.append(await addresses(name, 1, "greedy"))

    async with anyio.create_task_group() as all_of_them:
        for number in range(MOST_EACH):
            all_of_them.start_soon(look, f"slow{number}.test")
        await until(lambda: len(system.asked) == MOST_EACH)
        all_of_them.start_soon(look, "quick.test")
        await asyncio.sleep(0.05)
        assert "quick.test" not in system.asked
        with anyio.fail_after(5):
            assert await addresses("other.test", 1, "somebody else")
            assert await addresses("127.0.0.1", 1, "greedy")  # nobody has to be asked
        system.over.set()
    assert len(got) == MOST_EACH + 1


@pytest.mark.parametrize(("host", "error"), [("no.test", OSError), ("a..b", UnicodeError)])
async def test_what_is_no_name_is_told_to_everybody_who_asked(system, host, error, monkeypatch):
    if error is UnicodeError:
        monkeypatch.undo()
    for _ in range(2 * MOST_EACH):
        with pytest.raises(error):
            await addresses(host, 1, "owner")
