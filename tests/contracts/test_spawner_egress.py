"""The network of sandboxed instances: only what their egress list names, through the gateway."""

import json
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from tests.forked import ForkingSpawner

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import InvalidInput, Unavailable
from mcphub.ids import instance_id
from mcphub.spawn.building import Layer
from mcphub.spawn.egress.dns import Names
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.egress.relay import Relay
from mcphub.spawn.egress.rules import Rules
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch

pytestmark = pytest.mark.anyio

DIALS = """
import json, socket, ssl, sys
def dial(host, port, name=None):
    try:
        with socket.create_connection((host, port), 5) as sock:
            if name:
                context = ssl.create_default_context()
                context.wrap_socket(sock, server_hostname=name)
            sock.sendall(b"ping")
            return sock.recv(100).decode()
    except OSError as error:
        return type(error).__name__
print(json.dumps([dial(*wanted) for wanted in json.loads(sys.argv[1])]))
"""


class Echo:
    """A host service on loopback that says its name."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.listener = socket.create_server((address, port))
        self.port = self.listener.getsockname()[1]
        self.seen = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer:
                self.seen = peer.recv(65536)
                peer.sendall(b"from the host")


@pytest.fixture
def echo() -> Iterator[Echo]:
    service = Echo()
    yield service
    service.listener.close()


@pytest.fixture
def events() -> list[EgressEvent]:
    return []


@pytest.fixture(params=["bubblewrap", "own code", "forked"])
async def spawner(
    request: pytest.FixtureRequest, tmp_path: Path, events: list[EgressEvent]
) -> AsyncIterator[SandboxedSpawner | ForkingSpawner]:
    if request.param == "forked":
        async with ForkingSpawner(
            SandboxSettings(tmp_path / "run"), on_egress=events.append
        ) as found:
            yield found
        return
    without = frozenset({Layer.BUBBLEWRAP}) if request.param == "own code" else frozenset()
    settings = SandboxSettings(tmp_path / "run", without=without)
    async with SandboxedSpawner(settings, events.append) as found:
        assert found.means == request.param, found.problem
        yield found


async def dial(spawner, home: Path, wanted: list, number: int = 16, **sandbox) -> list[str]:
    process = await spawner.start(
        Launch(
            instance_id(),
            f"u_{number}",
            number,
            ("/usr/bin/python3", "-c", DIALS, json.dumps(wanted)),
            home,
            sandbox=SandboxSpec(**sandbox),
        )
    )
    with anyio.fail_after(40):
        await process.exited
    answer = os.read(process.stdout, 65536)
    await process.stop(0)
    assert answer, process.stderr.lines()
    return json.loads(answer)


async def seen(events: list[EgressEvent], **wanted: object) -> EgressEvent:
    with anyio.fail_after(10):
        while True:
            for event in events:
                if all(getattr(event, name) == value for name, value in wanted.items()):
                    return event
            await anyio.sleep(0.02)


async def test_a_listed_forward_reaches_the_host_and_is_told(spawner, echo, events, tmp_path):
    listed = f"127.0.0.1:{echo.port}"
    answers = await dial(spawner, tmp_path / "h", [["127.0.0.1", echo.port]], egress=(listed,))
    assert answers == ["from the host"]
    await seen(events, kind="allowed", host="127.0.0.1", port=echo.port)


async def test_two_users_have_two_lists(spawner, echo, tmp_path):
    other = Echo()
    for number, mine, foreign in ((16, echo, other), (17, other, echo)):
        answers = await dial(
            spawner,
            tmp_path / str(number),
            [["127.0.0.1", mine.port], ["127.0.0.1", foreign.port]],
            number=number,
            egress=(f"127.0.0.1:{mine.port}",),
        )
        assert answers == ["from the host", "ConnectionRefusedError"]
    other.listener.close()


async def test_a_redirected_host_goes_to_its_stand_in(spawner, echo, tmp_path):
    redirect = {"api.github.com:443": f"127.0.0.1:{echo.port}"}
    wanted = [["api.github.com", 443], ["api.github.com", 80], ["gitlab.com", 443]]
    answers = await dial(spawner, tmp_path / "h", wanted, redirect=redirect)
    assert answers == ["from the host", "ConnectionRefusedError", "gaierror"]


async def test_without_a_list_there_is_no_network(spawner, echo, tmp_path):
    wanted = [["127.0.0.1", echo.port], ["1.1.1.1", 443], ["example.com", 443]]
    answers = await dial(spawner, tmp_path / "h", wanted)
    assert answers == ["ConnectionRefusedError", "OSError", "gaierror"]


async def test_https_is_refused_for_other_names_and_for_local_addresses(spawner, events, tmp_path):
    host = "localhost.localdomain"  # at best loopback, never public
    wanted = [[host, 443, "other.example"], [host, 443, host], ["192.0.2.7", 443]]
    answers = await dial(spawner, tmp_path / "h", wanted, egress=(host,))
    assert "from the host" not in answers
    await seen(events, kind="refused", reason="TLS server name does not fit the egress list")
    await seen(events, kind="refused", host="192.0.2.7", reason="not TLS")
    assert not [event for event in events if event.kind == "allowed"]


async def test_a_refused_name_is_told(spawner, events, tmp_path):
    assert await dial(
        spawner, tmp_path / "h", [["evil.test", 443]], egress=("api.example.com",)
    ) == ["gaierror"]
    await seen(events, kind="refused", host="evil.test", port=53)


async def test_a_crash_of_the_gateway_costs_only_running_connections(spawner, echo, tmp_path):
    listed = (f"127.0.0.1:{echo.port}",)
    wanted = [["127.0.0.1", echo.port]]
    assert await dial(spawner, tmp_path / "h", wanted, egress=listed) == ["from the host"]
    first = spawner.egress.pid
    os.kill(first, signal.SIGKILL)
    with anyio.fail_after(10):
        while spawner.egress.pid is not None:  # noqa: ASYNC110  another process
            await anyio.sleep(0.02)
    assert await dial(spawner, tmp_path / "h", wanted, egress=listed) == ["from the host"]
    assert spawner.egress.pid != first


async def test_a_malformed_entry_is_refused_before_anything_starts(spawner, tmp_path):
    with pytest.raises(InvalidInput):
        await dial(spawner, tmp_path / "h", [], egress=("http://x",))


ASKS_A_PROXY = """
import json, socket, sys
def ask(request):
    with socket.create_connection(("127.0.0.1", 3128), 5) as sock:
        sock.sendall(request.encode())
        said = sock.recv(1000).decode()
        if said.startswith("HTTP/1.1 200"):
            sock.sendall(b"ping")
            said = sock.recv(100).decode()
        return said
print(json.dumps([ask(request) for request in json.loads(sys.argv[1])]))
"""


async def test_a_program_that_insists_on_a_proxy_finds_one_with_the_same_list(
    spawner, echo, events, tmp_path
):
    redirect = {"api.github.com:443": f"127.0.0.1:{echo.port}"}
    head = "Host: x\r\nProxy-Connection: keep-alive\r\n\r\n"
    wanted = [
        f"CONNECT api.github.com:443 HTTP/1.1\r\n{head}",
        f"CONNECT API.GitHub.com.:443 HTTP/1.1\r\n{head}",
        f"CONNECT gitlab.com:443 HTTP/1.1\r\n{head}",
        f"CONNECT api.github.com:80 HTTP/1.1\r\n{head}",
        f"CONNECT 127.0.0.1:{echo.port} HTTP/1.1\r\n{head}",
        f"GET http://api.github.com/ HTTP/1.1\r\n{head}",
        f"CONNECT api.github.com:443 HTTP/1.1\r\n{head}too early",
    ]
    process = await spawner.start(
        Launch(
            instance_id(),
            "u_16",
            16,
            ("/usr/bin/python3", "-c", ASKS_A_PROXY, json.dumps(wanted)),
            tmp_path / "h",
            sandbox=SandboxSpec(redirect=redirect),
        )
    )
    with anyio.fail_after(40):
        await process.exited
    answers = json.loads(os.read(process.stdout, 65536))
    await process.stop(0)
    assert answers[:2] == ["from the host"] * 2
    for refused in answers[2:5]:
        assert refused.startswith("HTTP/1.1 403") and "not in the egress list" in refused
    assert all(said.startswith("HTTP/1.1 405") for said in answers[5:])
    await seen(events, kind="allowed", host="api.github.com", port=443)
    await seen(events, kind="refused", host="gitlab.com", port=443)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: listens on port 443 of loopback")
async def test_https_by_a_listed_name_is_relayed_byte_for_byte():
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(
        incoming, outgoing, server_hostname="api.example.com"
    )
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    front, back = (f"127.{os.urandom(1)[0] % 200 + 10}.{os.urandom(1)[0]}.{n}" for n in (7, 8))
    server = Echo(back, 443)
    reports: list[tuple] = []
    asked: list[tuple] = []

    async def resolve(target):
        asked.append(target)
        return ["10.9.9.9", back]

    rules = Rules.parse(("api.example.com",), {})
    # Only the judge of addresses is the test's, which has nothing but loopback to connect to.
    with socket.create_server((front, 443)) as listener, server.listener:
        client = socket.create_connection((front, 443))
        accepted, _ = listener.accept()
        accepted.setblocking(False)
        relay = Relay(
            rules,
            Names(rules),
            lambda *values: reports.append(values),
            resolve,
            may_connect=lambda address, _check: address == back,
        )
        with client, anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(relay.serve, accepted)
                client.sendall(hello)
                client.setblocking(False)
                await anyio.wait_readable(client)
                answer = client.recv(100)
                client.shutdown(socket.SHUT_WR)
    assert asked == [("api.example.com", 443)]
    assert answer == b"from the host"
    assert server.seen == hello
    assert [report[0] for report in reports] == ["allowed", "closed"]
    assert reports[1][1:] == (("api.example.com", 443), "end", len(hello), len(answer))


LISTENS = """
import socket
with socket.create_server(("127.0.0.1", 8123)) as server:
    print("up", flush=True)
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(b"from inside")
"""


async def test_a_port_inside_of_an_instance_can_be_dialled_and_only_by_its_id(spawner, tmp_path):
    if isinstance(spawner, ForkingSpawner):
        return  # for the isolation check, which starts plainly
    launch = Launch(
        instance_id=instance_id(),
        owner="check",
        number=3,
        argv=("/usr/bin/python3", "-c", LISTENS),
        home=tmp_path / "home",
        sandbox=SandboxSpec(redirect={"*:443": "127.0.0.1:9"}),
    )
    process = await spawner.start(launch)
    with anyio.fail_after(20):
        await anyio.wait_readable(process.stdout)
        with await spawner.dial(launch.instance_id, 8123) as sock:
            await anyio.wait_readable(sock)
            assert sock.recv(100) == b"from inside"
        for other, port in ((launch.instance_id, 8124), ("i_other", 8123)):
            with pytest.raises(Unavailable):
                await spawner.dial(other, port)
    await process.stop()
