"""Programs and single files that lie in private directories, shown without what lies beside them."""

import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from mcphub.errors import InvalidInput, UpstreamFailed
from mcphub.ids import instance_id
from mcphub.spawn.bubblewrap import readable_places
from mcphub.spawn.program import readable_of
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Launch
from mcphub.spawn.staging import Staging

pytestmark = pytest.mark.anyio
PYTHON = "/usr/bin/python3"


@pytest.fixture
async def spawner(tmp_path):
    async with SandboxedSpawner(SandboxSettings(tmp_path / "run")) as found:
        assert found.level, found.problem
        yield found


@pytest.fixture
def private(tmp_path):
    """A directory that only the hub may enter."""
    place = tmp_path / "private"
    place.mkdir(mode=0o700)
    return place


async def run(spawner, tmp_path, *argv, number=16, **rest):
    """Run to the end; returns exit status, output and the last words."""
    wanted = Launch(instance_id(), f"u_{number}", number, argv, tmp_path / f"h{number}", **rest)
    process = await spawner.start(wanted)
    out = b""
    with anyio.fail_after(30):
        while True:
            await anyio.wait_readable(process.stdout)
            part = os.read(process.stdout, 65536)
            if not part:
                break
            out += part
        status = await process.exited
    await process.stop(0)
    return status, out.decode(), process.stderr.lines()


async def test_a_single_file_is_shown_and_what_lies_beside_it_is_not(spawner, private, tmp_path):
    shown, beside = private / "a b,c:d.txt", private / "beside.txt"
    shown.write_text("shown\n")
    beside.write_text("hidden\n")
    code = (
        "import os, sys; from pathlib import Path; shown = Path(sys.argv[1])\n"
        "print(shown.read_text(), os.listdir(shown.parent), os.access(shown, os.W_OK))"
    )
    argv = (PYTHON, "-c", code, str(shown))
    for number in (16, 17):
        status, out, said = await run(spawner, tmp_path, *argv, number=number, readable=(shown,))
        assert (status, out) == (0, f"shown\n ['{shown.name}'] False\n"), said


async def test_a_program_in_a_private_directory_runs_beside_a_directory_and_another_file(
    spawner, private, tmp_path
):
    program, data, package = private / "server", private / "data", private / "package"
    package.mkdir()
    (package / "part").write_text("of a package")
    data.write_text("data ")
    program.write_text(f"#!/bin/sh\ncat {data} {package}/part\n")
    program.chmod(0o755)
    readable = (program, package, data)
    status, out, said = await run(spawner, tmp_path, str(program), readable=readable)
    assert (status, out) == (0, "data of a package"), said


async def test_a_link_is_shown_as_the_file_that_it_leads_to(spawner, private, tmp_path):
    (private / "real").mkdir(mode=0o700)
    (private / "real" / "server").write_text("#!/bin/sh\necho up\n")
    (private / "real" / "server").chmod(0o755)
    link = private / "server"
    link.symlink_to("real/server")
    status, out, said = await run(spawner, tmp_path, str(link), readable=(link,))
    assert (status, out) == (0, "up\n"), said


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: overlays are mounted by a root hub")
async def test_a_lock_on_a_single_file_reaches_no_other_instance(spawner, private, tmp_path):
    file = private / "package.json"
    file.write_text("{}")
    code = (
        "import fcntl, sys; file = open(sys.argv[1])\n"
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    argv = (PYTHON, "-c", code, str(file))
    for number in (16, 17):
        process = await spawner.start(
            Launch(instance_id(), f"u_{number}", number, argv, tmp_path / str(number), readable=(file,))
        )  # fmt: skip
        with anyio.fail_after(30):
            await anyio.wait_readable(process.stdout)
        assert os.read(process.stdout, 100) == b"locked\n", process.stderr.lines()


@pytest.mark.parametrize("base", [PYTHON, sys.executable], ids=["usr-python", "tests-python"])
async def test_the_python_of_a_virtual_environment_runs_with_its_packages(
    spawner, private, tmp_path, base
):
    venv = private / "project" / ".venv"
    made = [base, "-I", "-m", "venv", "--without-pip", venv]
    subprocess.run(made, check=True, capture_output=True, timeout=60)  # noqa: ASYNC221
    (package,) = venv.glob("lib/python3*/site-packages")
    (package / "mine.py").write_text("import json, ssl; print('imported', __name__)")
    (private / "project" / "beside").write_text("hidden")
    script = venv / "bin" / "my-server"
    script.write_text(f"#!{venv}/bin/python\nimport mine\n")
    script.chmod(0o755)
    for argv in ((str(venv / "bin" / "python"), "-m", "mine"), (str(script),)):
        readable = readable_of(Path(argv[0]))
        assert private / "project" not in readable
        status, out, said = await run(spawner, tmp_path, *argv, readable=readable)
        assert (status, out.split()[0]) == (0, "imported"), said


async def test_a_link_out_of_the_sandbox_is_refused_and_the_fix_is_named(
    spawner, private, tmp_path
):
    shown = private / "shown"
    shown.mkdir()
    (private / "server").write_text("#!/bin/sh\necho up\n")
    (private / "server").chmod(0o755)
    (shown / "server").symlink_to(private / "server")
    await refused(spawner, tmp_path, shown / "server", shown)
    status, out, _ = await run(
        spawner, tmp_path, str(shown / "server"), readable=(shown, private / "server")
    )
    assert (status, out) == (0, "up\n")


async def test_a_script_of_a_hidden_interpreter_is_refused_and_the_fix_is_named(
    spawner, private, tmp_path
):
    script = private / "script"
    script.write_text(f"#!{private}/bin/python -u\n")
    script.chmod(0o755)
    await refused(spawner, tmp_path, script, script)


async def refused(spawner, tmp_path, program, *readable):
    with pytest.raises(UpstreamFailed) as caught:
        await run(spawner, tmp_path, str(program), readable=readable)
    assert "sandbox.readable" in caught.value.hint
    assert str(tmp_path) not in f"{caught.value} {caught.value.hint}"


async def test_sixty_four_single_files_are_shown_and_one_more_is_refused(
    spawner, private, tmp_path
):
    files = [private / f"file{index}" for index in range(65)]
    for file in files:
        file.write_text(file.name)
    argv = ("/bin/cat", *map(str, files[:64]))
    status, out, said = await run(spawner, tmp_path, *argv, readable=tuple(files[:64]))
    assert (status, out) == (0, "".join(file.name for file in files[:64])), said
    staging = Staging(overlay=False, slots=tmp_path / "slots")
    with pytest.raises(InvalidInput, match="too many single files"):
        staging.plan(tmp_path, tmp_path, files)


@pytest.mark.parametrize("used", ["/mnt/data", "/mnt"])
def test_the_mounts_hide_nothing_that_the_server_needs_also_behind_a_link(tmp_path, used):
    link = tmp_path / "link"
    link.symlink_to(used)
    for needed in (Path(used), link):
        _, table = Staging(overlay=False, slots=tmp_path).plan(tmp_path, tmp_path, [needed])
        assert table.split()[1] != "/mnt"
    _, table = Staging(overlay=False, slots=tmp_path).plan(tmp_path, tmp_path, [Path("/mnt2")])
    assert table.split()[1] == "/mnt"


async def test_what_is_visible_anyway_may_be_named_and_the_sandboxs_own_places_may_not():
    named = ["/usr", "/opt/x/y", "/usr/lib/python3", "/opt/x", "/opt/x/../x/z"]
    assert readable_places([Path(one) for one in named]) == [Path("/opt/x")]
    for taken in ("/", "/proc", "/etc", "/home", "/usr/../proc", "opt/x"):
        with pytest.raises(InvalidInput):
            readable_places([Path(taken)])
