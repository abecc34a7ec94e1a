"""Every seeded leak is told from its clean twin, with its class."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from mcphub.isolation.check import Options, check
from mcphub.isolation.model import Verdict
from mcphub.isolation.subject import Subject
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from tests.isolation import mutants

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
FILE = Path(mutants.__file__)


@pytest.fixture
async def spawner(tmp_path_factory):
    async with SandboxedSpawner(SandboxSettings(tmp_path_factory.mktemp("run"))) as spawner:
        assert spawner.level, spawner.problem
        yield spawner


async def checked(spawner, place, name, *, leaky):
    """Check one variant; it runs under the system's own interpreter, which every sandbox shows."""
    kind = mutants.VARIANTS[name]
    server = place / "server"
    server.mkdir()
    shutil.copy(FILE, server / "mutants.py")
    env = dict(kind.env) | ({"PORT": "{port}"} if kind.http else {})
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    subject = Subject(
        id=name,
        version="1",
        argv=(python, str(server / "mutants.py"), name, "leaky" if leaky else "clean"),
        env=env,
        readable=(server,),
        url="http://127.0.0.1:{port}/mcp" if kind.http else "",
    )
    uid = 200_003 if os.geteuid() == 0 else os.geteuid()
    lab = place / "lab"
    lab.mkdir()
    return await check(subject, spawner, lab, uid=uid, options=Options(budget_s=120))


@pytest.mark.parametrize("name", mutants.VARIANTS)
async def test_a_seeded_leak_is_found_with_its_class(spawner, tmp_path, name):
    result = await checked(spawner, tmp_path, name, leaky=True)
    assert result.classes == mutants.VARIANTS[name].classes, result
    assert result.verdict is Verdict.LEAK
    assert all(finding.confidence >= 0.9 for finding in result.findings)


@pytest.mark.parametrize("name", mutants.VARIANTS)
async def test_its_clean_twin_is_not_accused(spawner, tmp_path, name):
    result = await checked(spawner, tmp_path, name, leaky=False)
    assert result.classes == ()
    assert result.verdict is not Verdict.LEAK
