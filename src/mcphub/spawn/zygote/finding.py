"""Finds out, in the sandbox of a neutral launch, what a zygote of a Python server may import."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import mcphub
from mcphub.spawn.findings import Finding
from mcphub.spawn.spawner import Launch, Preload
from mcphub.spawn.trials import ROUNDS, Trials, words_of

_MOST_TEXT: Final = 100_000
_MODULE: Final = re.compile(r"[A-Za-z][\w]*(?:\.\w+)*")
_AUDIT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from mcphub.spawn.zygote import audit; del sys.path[0];"
    "[sys.modules.pop(n) for n in list(sys.modules) if n.partition('.')[0] == 'mcphub'];"
)


def is_package(argv: Sequence[str]) -> bool:
    """Tell whether a command line is that of a Python server of the package store."""
    if len(argv) < 2:
        return False
    program = Path(argv[0])
    environment = program.parents[1] if len(program.parents) > 1 else program
    return (
        program.name == "python"
        and (environment / "pyvenv.cfg").is_file()
        and Path(argv[1]).parent == program.parent
    )


async def find(trials: Trials, launch: Launch) -> Finding:
    """Audit the imports of a server and compare it, forked, with itself."""
    told = await _audited(trials, launch, "discover", words_of(launch)[1:])
    if told is None:
        return Finding(why_plain="It does not end in an orderly way, so its imports are unknown.")
    unfit: dict[str, str] = dict(told["unfit"])
    order = [name for name in told["modules"] if _MODULE.fullmatch(name)]
    for _ in range(ROUNDS):
        modules = [name for name in order if not _is_unfit(name, unfit)]
        if not modules or len(",".join(order)) > _MOST_TEXT:
            return Finding(unfit=_tops(unfit), why_plain="No module of it may be imported early.")
        check = await _audited(trials, launch, "verify", modules)
        if check is None:
            return Finding(why_plain="Its modules cannot be imported by themselves.")
        if not check["unfit"]:
            break
        unfit |= check["unfit"]
    else:
        return Finding(unfit=_tops(unfit), why_plain="Its imports have no end of side effects.")
    known = set(modules)
    later = tuple(name for name in order if name not in known)
    found = Finding(tuple(modules), tuple(check["read"]), _tops(unfit), later=later)
    preload = Preload(str(launch.argv[0]), found.modules, found.later)
    return replace(found, why_plain=await trials.difference(launch, preload, "forked"))


async def _audited(
    trials: Trials, launch: Launch, call: str, words: Sequence[str]
) -> dict[str, Any] | None:
    """Run one audit; returns what it wrote, None when that is nothing usable."""
    code = Path(mcphub.__file__).parent
    program = f"{_AUDIT}audit.{call}(sys.argv[2:])"
    argv = [str(launch.argv[0]), "-I", "-c", program, str(code.parent), *words]
    text = await trials.audited(launch, argv, code, greeted=call == "discover")
    if text is None:
        return None
    told = json.loads(text)
    return {
        "modules": [str(name) for name in told["modules"]],
        "read": [str(name) for name in told["read"]],
        "unfit": {str(name): str(why)[:200] for name, why in told["unfit"].items()},
    }


def _is_unfit(name: str, unfit: Mapping[str, str]) -> bool:
    """Tell whether a module or a package that it is in is unfit: importing it imports those too."""
    parts = name.split(".")
    return any(".".join(parts[:count]) in unfit for count in range(1, len(parts) + 1))


def _tops(unfit: Mapping[str, str]) -> dict[str, str]:
    """Return the first reason of each top-level module."""
    found: dict[str, str] = {}
    for name, why in unfit.items():
        found.setdefault(name.partition(".")[0], why)
    return found
