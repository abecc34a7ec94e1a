"""Checks one of the variants as `mcphub check` would."""

import os
import shutil
import sys
from pathlib import Path

from mcphub.isolation.check import Options, check
from mcphub.isolation.subject import Subject
from tests.isolation import mutants

PLACE = Path(mutants.__file__).parent


async def checked(spawner, place, name, *, leaky, budget_s=120.0):
    """Check one variant; it runs under the system's own interpreter, which every sandbox shows."""
    kind = mutants.SERVED[name]
    server = place / "server"
    shutil.copytree(PLACE, server / "mutants", ignore=shutil.ignore_patterns("__pycache__"))
    env = {**kind.env, "PYTHONPATH": str(server), **({"PORT": "{port}"} if kind.http else {})}
    python = shutil.which("python3", path="/usr/bin") or sys.executable
    subject = Subject(
        id=name,
        version="1",
        argv=(python, "-m", "mutants", name, "leaky" if leaky else "clean", *kind.args),
        env=env,
        files=kind.files,
        readable=(server,),
        url="http://127.0.0.1:{port}/mcp" if kind.http else "",
    )
    uid = 200_003 if os.geteuid() == 0 else os.geteuid()
    lab = place / "lab"
    lab.mkdir()
    return await check(subject, spawner, lab, uid=uid, options=Options(budget_s=budget_s))
