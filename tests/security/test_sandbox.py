"""A hostile server in the sandbox, with a real victim beside it: every way out is refused.

The same probe runs without a sandbox as a control, so that a row cannot pass because the probe
looks in the wrong place.
"""

import ctypes
import fcntl
import json
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcphub.catalog.spec import SandboxSpec
from mcphub.ids import instance_id
from mcphub.spawn.process import children
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Process
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.vault.secret import Secret

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the victim has an own kernel uid"),
]

PYTHON = "/usr/bin/python3"
PROBE = Path(__file__).with_name("hostile_probe.py")
SECRET = "victims-secret-7391"
HUB_CANARY = "canary-of-the-hub-2210"
# Rows that the control does not reach on every machine: no terminal, no vsock module, no such call,
# nothing inherited in the first place.
NOT_IN_CONTROL = {
    "inherited_descriptors",
    "own_init_environ",
    "terminal_injection",
    "dns_of_an_unlisted_name",
    "vsock",
    "io_uring",
    "userfaultfd",
}
ROWS = [
    line.removeprefix("def ").split("(")[0]
    for before, line in zip(
        PROBE.read_text().splitlines(), PROBE.read_text().splitlines()[1:], strict=False
    )
    if before == "@row"
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The host with everything that a hostile server would like."""
    root = tmp_path_factory.mktemp("world")
    package = root / "package"
    package.mkdir()
    (package / "server.py").write_text("pass\n")
    (package / "probe.py").write_text(PROBE.read_text())
    (root / "keys").mkdir(mode=0o700)
    (root / "keys" / "vault.keys").write_text(SECRET)
    (root / "other").mkdir(mode=0o700)
    (root / "other" / "note").write_text(SECRET)
    mark = instance_id()
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", 0))
        path = stack.enter_context(socket.socket(socket.AF_UNIX))
        socket_path = root / "s"
        path.bind(str(socket_path))
        socket_path.chmod(0o777)
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("\0" + mark)
        for listener in (tcp, path, abstract):
            listener.listen()
            _answer(listener)
        threading.Thread(target=_echo, args=(udp,), daemon=True).start()
        for place in ("/dev/shm", "/tmp"):
            file = Path(place, mark)
            file.write_text(SECRET)
            stack.callback(file.unlink)
        libc = ctypes.CDLL(None)
        key = 0x4D430000 | (os.getpid() & 0xFFFF)
        shm = libc.shmget(key, 4096, 0o1666)
        stack.callback(libc.shmctl, shm, 0, None)
        victim = stack.enter_context(
            subprocess.Popen(["/bin/sleep", "600"], env={"TOKEN": SECRET, "HUB": HUB_CANARY})
        )
        stack.callback(victim.kill)
        lock = stack.enter_context((package / "server.py").open())
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield {
            "root": root,
            "key_file": str(root / "keys" / "vault.keys"),
            "hub_dir": str(root / "keys"),
            "other_home": str(root / "other"),
            "secret": SECRET,
            "victim_mark": "sleep",
            "victim_pid": victim.pid,
            "hub_canary": HUB_CANARY,
            "path_socket": str(socket_path),
            "abstract_socket": mark,
            "tcp_port": tcp.getsockname()[1],
            "udp_port": udp.getsockname()[1],
            "host_address": _host_address(),
            "unlisted_name": "unlisted.example.org",
            "shm_key": key,
            "dev_shm": f"/dev/shm/{mark}",
            "tmp_file": f"/tmp/{mark}",
            "package": str(package),
        }


def _answer(listener: socket.socket) -> None:
    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.recv(100)
                peer.sendall(b"reached")

    threading.Thread(target=serve, daemon=True).start()


def _echo(udp: socket.socket) -> None:
    while True:
        try:
            data, peer = udp.recvfrom(100)
            udp.sendto(data, peer)
        except OSError:
            return


def _host_address() -> str:
    """An address of this machine that is not loopback, else loopback; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return sock.getsockname()[0]


async def probe(spawner: Any, world: dict[str, Any], **sandbox: Any) -> dict[str, Any]:
    root: Path = world["root"]
    facts = {name: value for name, value in world.items() if name != "root"}
    process: Process = await spawner.start(
        Launch(
            instance_id(),
            "u_attacker",
            17,
            (PYTHON, "-u", f"{world['package']}/probe.py", json.dumps(facts)),
            root / "attacker",
            readable=(Path(world["package"]),),
            sandbox=SandboxSpec(**sandbox),
        )
    )
    data = b""
    with anyio.fail_after(60):
        while True:
            await anyio.wait_readable(process.stdout)
            part = os.read(process.stdout, 65536)
            if not part:
                break
            data += part
            if data.endswith(b"WATCHING\n"):
                (Path(world["package"]) / "server.py").read_text()
                os.write(process.stdin, b"go on\n")
        await process.exited
    await process.stop(0)
    lines = data.decode().splitlines()
    assert lines, process.stderr.lines()
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
async def spawner(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[SandboxedSpawner]:
    async with SandboxedSpawner(SandboxSettings(tmp_path_factory.mktemp("run"))) as found:
        assert found.level >= 4, found.problem
        yield found


@pytest.fixture(scope="module")
async def victim(spawner: SandboxedSpawner, world: dict[str, Any]) -> AsyncIterator[Process]:
    """The other user's running instance, with a secret in its environment."""
    process = await spawner.start(
        Launch(
            instance_id(),
            "u_victim",
            16,
            ("/bin/sleep", "600"),
            world["root"] / "victim",
            env={"TOKEN": Secret(SECRET)},
        )
    )
    yield process
    await process.stop(0)


@pytest.fixture(scope="module")
async def without_network(spawner, victim, world) -> dict[str, Any]:
    return await probe(spawner, world)


@pytest.fixture(scope="module")
async def with_egress(spawner, victim, world) -> dict[str, Any]:
    return await probe(spawner, world, egress=("listed.example.org", "127.0.0.1:9"))


@pytest.fixture(scope="module")
async def control(anyio_backend, world) -> dict[str, Any]:
    async with UnsandboxedSpawner() as plain:
        return await probe(plain, world)


@pytest.mark.anyio
@pytest.mark.parametrize("row", ROWS)
async def test_a_hostile_server_is_refused(row, without_network, with_egress):
    assert not without_network[row]["reached"], without_network[row]
    assert not with_egress[row]["reached"], with_egress[row]


@pytest.mark.anyio
@pytest.mark.parametrize("row", sorted(set(ROWS) - NOT_IN_CONTROL))
async def test_the_same_probe_without_a_sandbox_reaches(row, control):
    assert control[row]["reached"], control[row]


@pytest.mark.anyio
async def test_the_victims_secret_is_in_no_outer_process(spawner, victim):
    """Only the victim's own program carries it: not bubblewrap, not its init."""
    for pid in (victim.pid, *children(victim.pid)):
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()  # noqa: ASYNC240
            assert SECRET.encode() not in shown


@pytest.mark.anyio
async def test_instances_of_two_users_have_two_kernel_uids(spawner, world):
    uids = set()
    for number in (16, 17):
        home = world["root"] / f"home{number}"
        process = await spawner.start(
            Launch(instance_id(), f"u_{number}", number, ("/bin/true",), home)
        )
        with anyio.fail_after(20):
            await process.exited
        await process.stop()
        uids.add(home.stat().st_uid)
    assert uids == {200_016, 200_017}
