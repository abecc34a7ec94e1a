"""What is prepared for a start belongs to that start or to nobody, and all starts share the machine fairly."""

import os
from pathlib import Path

import pytest
from tests.polling import until

from mcphub.catalog.spec import SandboxSpec
from mcphub.spawn.cgroups import Cgroups
from mcphub.spawn.zygote.preparer import Preparer

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and control groups"),
]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_start_that_is_given_up_leaves_no_mount_open(tmp_path):
    preparer = Preparer()
    namespace = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = preparer.prepare("i_first", namespace, tmp_path, None)
        (home,) = await first.answer()
        first.forget()
        os.close(home)  # an answer that was taken is its owner's
        before = open_descriptors()
        early = preparer.prepare("i_early", namespace, tmp_path, None)
        early.forget()
        late = preparer.prepare("i_late", namespace, tmp_path, None)
        await until(late._future.done)
        assert open_descriptors() == before + 1
        late.forget()
        late.forget()
        assert open_descriptors() == before
        last = preparer.prepare("i_last", namespace, tmp_path, None)
        os.close((await last.answer())[0])
        assert (open_descriptors(), preparer._waiting) == (before, {})
    finally:
        os.close(namespace)
        preparer.close()


def test_all_instances_together_weigh_as_much_as_one_process_on_each_core():
    groups = Cgroups()
    if "cpu" not in groups.controllers:
        pytest.skip("no control group of processor time can be written here")
    group = groups.create(f"weight-{os.getpid()}", SandboxSpec())
    try:
        found = {
            file: int((path.parent / file).read_text())
            for path in group.paths
            for file in ("cpu.shares", "cpu.weight")
            if (path.parent / file).exists()
        }
    finally:
        for path in group.paths:
            Path(path).rmdir()
    cores = os.cpu_count() or 1
    assert found in ({"cpu.shares": 1024 * cores}, {"cpu.weight": min(10_000, 100 * cores)})
