"""A hostile server in the sandbox, with a real victim beside it: every way out is refused.

The attempts and the columns are in `matrix`; the same probe runs without a sandbox as a control, so that
a row cannot pass because the probe looks in the wrong place.
"""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.security import matrix
from tests.unprivileged import needs_plain_user

from mcphub.ids import instance_id
from mcphub.spawn.building import Layer
from mcphub.spawn.process import children
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch, Process
from mcphub.vault.secret import Secret

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the victim has an own kernel uid"),
]
# What the control does not reach on every machine: no terminal, no vsock module, no such call, or only
# with a right that root here has not; and what only a sandbox has.
NOT_IN_CONTROL = {
    *("inherited_descriptors", "own_init_environ", "terminal_injection", "dns_of_an_unlisted_name"),
    *("vsock", "io_uring", "userfaultfd", "posix_message_queue", "bpf", "perf_events"),
    *("other_home_in_mountinfo", "own_home_path_in_mountinfo"),
}


async def results_of(column: str, *, root: bool) -> matrix.Results:
    if root:
        return await matrix.run(column)
    return (await anyio.to_thread.run_sync(matrix.run_as_user, [column]))[column]


@pytest.mark.anyio
@needs_plain_user
@pytest.mark.parametrize("column", matrix.COLUMNS)
async def test_a_hostile_server_is_refused(column):
    _, root, _, may_be_open = matrix.COLUMNS[column]
    found = await results_of(column, root=root)
    holes = {row: found[row]["detail"] for row in found if found[row]["reached"]}
    assert set(holes) <= may_be_open, holes
    assert len(found) == len(matrix.rows())
    told = {row for row, cell in matrix.column_of_page(column).items() if cell != "closed"}
    assert told == set(holes), "run `python -m tests.security.matrix --page` as root"


@pytest.mark.anyio
async def test_the_same_probe_without_a_sandbox_reaches():
    found = await matrix.run("none, root")
    missed = {row: found[row]["detail"] for row in found if not found[row]["reached"]}
    assert set(missed) <= NOT_IN_CONTROL, missed


def test_the_page_has_every_attempt():
    assert list(matrix.column_of_page("none, root")) == matrix.rows()


@pytest.fixture(params=["bubblewrap", "own code"])
async def spawner(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[SandboxedSpawner]:
    without = frozenset({Layer.BUBBLEWRAP}) if request.param == "own code" else frozenset()
    async with SandboxedSpawner(SandboxSettings(tmp_path / "run", without=without)) as found:
        assert found.level >= 4, found.problem
        yield found


@pytest.fixture
def world() -> Iterator[dict[str, Any]]:
    with matrix.world() as facts:
        yield facts


@pytest.mark.anyio
async def test_the_victims_secret_is_in_no_outer_process(spawner, world):
    """Only the victim's own program carries it: not what built the sandbox, not its init."""
    victim: Process = await spawner.start(
        Launch(
            instance_id(),
            "u_victim",
            16,
            ("/bin/cat", Secret("-")),
            world["root"] / "victim",
            env={"TOKEN": Secret(matrix.SECRET)},
        )
    )
    os.write(victim.stdin, b"up\n")
    with anyio.fail_after(20):
        await anyio.wait_readable(victim.stdout)
    for pid in (victim.pid, *children(victim.pid)):
        for name in ("environ", "cmdline"):
            shown = Path(f"/proc/{pid}/{name}").read_bytes()  # noqa: ASYNC240
            assert matrix.SECRET.encode() not in shown
    await victim.stop(0)


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
