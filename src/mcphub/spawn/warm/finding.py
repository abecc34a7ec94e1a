"""Finds out, in the sandbox of a neutral launch, what a warm worker of a Node.js server may load.

What a worker loads are the files of other packages that the server's own files ask for, so that each
module exists once and is loaded by Node.js itself, in the place where it lies. Of the server's own files
those that are ES modules are linked early, which executes nothing; they run when the user is known.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from mcphub.catalog.packages import is_installation
from mcphub.spawn.findings import Finding
from mcphub.spawn.spawner import Launch, Warm
from mcphub.spawn.trials import ROUNDS, Trials, words_of

CODE: Final = Path(__file__).parent
MOST_TEXT: Final = 48 * 1024
_MODULES: Final = "/node_modules/"
_LOADABLE: Final = (".js", ".cjs", ".mjs")
_HOWS: Final = ("import", "require")
_LINKABLE: Final = (".js", ".mjs")


def is_package(argv: Sequence[str]) -> bool:
    """Tell whether a command line is that of a Node.js server of the package store."""
    if len(argv) < 2 or Path(argv[0]).name != "node" or _MODULES not in argv[1]:
        return False
    return is_installation(Path(argv[1].partition(_MODULES)[0]))


async def find(trials: Trials, launch: Launch) -> Finding:
    """Audit what a server loads and compare it, started in a warm worker, with itself."""
    node, script, *rest = words_of(launch)
    root = script.partition(_MODULES)[0]
    audit = [node, str(CODE / "audit.cjs")]
    text = await trials.audited(launch, [*audit, "discover", script, *rest], CODE, greeted=True)
    order = _asked_for([] if text is None else text.splitlines(), script, root)
    unfit: dict[str, str] = {}
    for _ in range(ROUNDS):
        modules = [name for name in order if name not in unfit]
        if not modules:
            return Finding(unfit=unfit, why_plain="No package of it may be loaded early.")
        check = await _verified(trials, launch, [*audit, "verify", root, *modules])
        if check is None:
            return Finding(why_plain="Its packages cannot be loaded by themselves.")
        if not check["unfit"]:
            break
        unfit |= check["unfit"]
    else:
        return Finding(unfit=unfit, why_plain="Loading its packages has no end of side effects.")
    shown = {_package(name): why for name, why in unfit.items()}
    found = Finding(tuple(modules), tuple(check["read"]), shown)
    warm = Warm(node, found.modules, trial=True)
    return replace(found, why_plain=await trials.difference(launch, warm, "started warm"))


def _asked_for(lines: Sequence[bytes], script: str, root: str) -> list[str]:
    """Return what files of the script's own package loaded from other packages, then they themselves.

    Both in order, and no more than a worker can be told: what is left out is loaded later.
    """
    own = _home_of(str(Path(script).resolve()))
    foreign: dict[str, None] = {}
    linked: dict[str, None] = {}
    for line in lines:
        how, parent, file = (str(word) for word in json.loads(line))
        if not file.startswith(root + _MODULES) or "\n" in file:
            continue
        if _home_of(file) == own:
            if how == "import" and file.endswith(_LINKABLE):
                linked[f"link {file}"] = None
        elif _home_of(parent) == own and how in _HOWS and file.endswith(_LOADABLE):
            foreign[f"{how} {file}"] = None
    sizes = accumulate(len(name) for name in (*foreign, *linked))
    return [
        name for name, size in zip((*foreign, *linked), sizes, strict=True) if size < MOST_TEXT // 2
    ]


def _home_of(file: str) -> str:
    """Return the directory of the package that a file belongs to."""
    before, mark, after = file.rpartition(_MODULES)
    parts = after.split("/")
    return before + mark + "/".join(parts[: 2 if after.startswith("@") else 1])


def _package(module: str) -> str:
    return _home_of(module).rpartition(_MODULES)[2]


async def _verified(trials: Trials, launch: Launch, argv: list[str]) -> dict[str, Any] | None:
    text = await trials.audited(launch, argv, CODE, greeted=False)
    if text is None:
        return None
    told = json.loads(text)
    return {
        "read": [str(name) for name in told["read"]],
        "unfit": {str(name): str(why)[:200] for name, why in told["unfit"].items()},
    }
