"""How a server's instances are started: chosen once per package by looking and by trying.

A Python server of the package store may be forked from a zygote. Which of its modules a zygote may
import is found by an audit, and that it then is the same server by a comparison: what it answers to
`initialize` and `tools/list`, started either way by nobody in particular. All of that happens in the
sandbox of a neutral instance. Whatever is not proven is started plainly, and the reason is told.

Decisions are files in a directory of the hub, by the package's exact version; they hold nothing of a
user. Not here: the forking (`zygote`), what a launch consists of (`launching`).
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import structlog

import mcphub
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError
from mcphub.ids import instance_id
from mcphub.spawn.process import readable
from mcphub.spawn.spawner import Launch, Preload, Spawner
from mcphub.spawn.zygote.audit import RESULT
from mcphub.vault.secret import Secret

_log = structlog.get_logger()

AUTO: Final = "auto"
PLAIN: Final = "plain"
ZYGOTE: Final = "zygote"
_FORMAT: Final = 1
_MOST_OUTPUT: Final = 8 * 1024 * 1024
_TRY_S: Final = 60.0
_ROUNDS: Final = 6
_MOST_TEXT: Final = 100_000
_LARGEST_RESULT: Final = 4 * 1024 * 1024
_MODULE: Final = re.compile(r"[A-Za-z][\w]*(?:\.\w+)*")
# Read by the interpreter, the loader or the C library when a program starts, so too early for a fork.
_AT_START: Final = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "LANGUAGE")
_OF_USER_CONTEXT: Final = "MCPHUB_USER_CONTEXT"  # `launching.TRUST_VARIABLE`
_HARMLESS: Final = frozenset({"PYTHONUNBUFFERED"})
_AUDIT: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from mcphub.spawn.zygote import audit; del sys.path[0];"
    "[sys.modules.pop(n) for n in list(sys.modules) if n.partition('.')[0] == 'mcphub'];"
)
_HELLO: Final = (
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "mcphub", "version": "1"},
        },
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}},
)


@dataclass(frozen=True, slots=True)
class StartMode:
    """How instances of a server are started.

    Attributes:
        kind: `plain` or `zygote`.
        reason: A sentence for administrators.
        preload: The zygote, if it is one.
    """

    kind: str
    reason: str
    preload: Preload | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one package.

    Attributes:
        modules: What a zygote may import, in order.
        read: Variables of the environment that these imports read.
        unfit: Top-level module -> why it may not.
        why_plain: Why no instance is forked; empty when it may be.
    """

    modules: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    unfit: Mapping[str, str] | None = None
    why_plain: str = ""


def plain(reason: str) -> StartMode:
    """Return the mode that always works."""
    return StartMode(PLAIN, reason)


class Findings:
    """The files that hold what was found. Reading needs no hub.

    Args:
        folder: Made when something is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, argv: Sequence[str]) -> Finding | None:
        """Return what is known of a program; None when nothing is."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(self._place(argv).read_bytes())
            return Finding(
                tuple(values["modules"]),
                tuple(values["read"]),
                dict(values["unfit"] or {}),
                str(values["why_plain"]),
            )
        return None

    def write(self, argv: Sequence[str], finding: Finding) -> None:
        """Keep a finding."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = self._place(argv)
        draft = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
        draft.write_text(json.dumps(asdict(finding), indent=1) + "\n")
        draft.replace(place)

    def _place(self, argv: Sequence[str]) -> Path:
        """Return the file of a program: package directories are named by exact version and hash."""
        exact = json.dumps([_FORMAT, mcphub.__version__, *argv[:2]])
        return self._folder / f"{hashlib.sha256(exact.encode()).hexdigest()[:32]}.json"


def mode_of(spec: ServerSpec, argv: Sequence[str], findings: Findings) -> StartMode | None:
    """Return how a program of this spec is started; None when that has to be found out first."""
    if spec.sandbox.start == PLAIN:
        return plain("The settings say so (`sandbox.start`).")
    if not _is_python_package(argv):
        return plain("Only Python servers of the package store are forked.")
    early = [name for name in spec.env if name.startswith(_AT_START) and name not in _HARMLESS]
    if early:
        return plain(f"It sets {early[0]}, which counts only when a program starts.")
    finding = findings.read(argv)
    if finding is None:
        return None
    if finding.why_plain:
        return plain(finding.why_plain)
    variables = set(spec.env) | (set() if spec.user_context is None else {_OF_USER_CONTEXT})
    read = sorted(set(finding.read) & variables)
    if read:
        return plain(f"It sets {read[0]}, which its modules read when they are imported.")
    unfit = ", ".join(f"{name} {why}" for name, why in list((finding.unfit or {}).items())[:4])
    reason = f"{len(finding.modules)} modules are imported once for all instances"
    reason += f"; not: {unfit}." if unfit else "."
    return StartMode(ZYGOTE, reason, Preload(argv[0], finding.modules))


def _is_python_package(argv: Sequence[str]) -> bool:
    if len(argv) < 2:
        return False
    program = Path(argv[0])
    environment = program.parents[1] if len(program.parents) > 1 else program
    return (
        program.name == "python"
        and (environment / "pyvenv.cfg").is_file()
        and Path(argv[1]).parent == program.parent
    )


class Prover:
    """Finds out what may be forked. Only for a neutral launch: nothing here is a user's.

    Args:
        spawner: Starts what is tried.
        findings: Where the outcome is kept.
    """

    def __init__(self, spawner: Spawner, findings: Findings) -> None:
        self.findings = findings
        self._spawner = spawner
        self._one = asyncio.Lock()

    async def prove(self, launch: Launch) -> None:
        """Look at the program of a neutral launch and keep the finding. Takes seconds.

        The home of the launch is used, and is worthless afterwards.
        """
        argv = _words(launch)[:2]
        try:
            async with self._one, asyncio.timeout(_ROUNDS * _TRY_S):
                finding = self.findings.read(argv) or await self._find(launch)
        except (HubError, OSError, ValueError) as error:
            reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            finding = Finding(why_plain=f"The audit of its imports failed ({reason}).")
        _log.info("start.found", argv=argv[1:], modules=len(finding.modules), why=finding.why_plain)
        await asyncio.to_thread(self.findings.write, argv, finding)

    async def _find(self, launch: Launch) -> Finding:
        words = _words(launch)[1:]
        told = await self._audited(launch, "audit.discover(sys.argv[2:])", words, _hello())
        if told is None:
            return Finding(
                why_plain="It does not end in an orderly way, so its imports are unknown."
            )
        unfit: dict[str, str] = dict(told["unfit"])
        order = [name for name in told["modules"] if _MODULE.fullmatch(name)]
        for _ in range(_ROUNDS):
            modules = [name for name in order if not _is_unfit(name, unfit)]
            if not modules or len(",".join(modules)) > _MOST_TEXT:
                return Finding(
                    unfit=_tops(unfit), why_plain="No module of it may be imported early."
                )
            check = await self._audited(launch, "audit.verify(sys.argv[2:])", modules, b"")
            if check is None:
                return Finding(why_plain="Its modules cannot be imported by themselves.")
            if not check["unfit"]:
                break
            unfit |= check["unfit"]
        else:
            return Finding(unfit=_tops(unfit), why_plain="Its imports have no end of side effects.")
        found = Finding(tuple(modules), tuple(check["read"]), _tops(unfit))
        why = await self._compared(launch, found)
        return replace(found, why_plain=why)

    async def _audited(
        self, launch: Launch, call: str, words: Sequence[str], said: bytes
    ) -> dict[str, Any] | None:
        """Run one audit; returns what it wrote, None when that is nothing usable."""
        code = Path(mcphub.__file__).parent
        python = str(launch.argv[0])
        tried = replace(
            launch,
            instance_id=instance_id(),
            argv=(python, "-I", "-c", _AUDIT + call, str(code.parent), *words),
            readable=(*launch.readable, code),
            preload=None,
        )
        process = await self._spawner.start(tried)
        try:
            os.write(process.stdin, said)
            await _output(process.stdout, answers=2 if said else None)
        finally:
            await process.stop(5.0)
        result = launch.home / RESULT
        text = await asyncio.to_thread(_taken, result)
        if text is None:
            return None
        told = json.loads(text)
        return {
            "modules": [str(name) for name in told["modules"]],
            "read": [str(name) for name in told["read"]],
            "unfit": {str(name): str(why)[:200] for name, why in told["unfit"].items()},
        }

    async def _compared(self, launch: Launch, found: Finding) -> str:
        """Return why the forked server is not the plain one; empty when it is."""
        expected = await self._answers(replace(launch, preload=None))
        if expected is None:
            return "It does not start without a user's credentials, so it could not be compared."
        preload = Preload(str(launch.argv[0]), found.modules)
        forked = await self._answers(replace(launch, preload=preload))
        if forked is None:
            return "It did not start when it was forked."
        return "" if forked == expected else "It answered differently when it was forked."

    async def _answers(self, launch: Launch) -> list[object] | None:
        """Return what a server says of itself, or None when it does not."""
        launch = replace(launch, instance_id=instance_id())
        await asyncio.to_thread(shutil.rmtree, launch.home, ignore_errors=True)
        process = await self._spawner.start(launch)
        try:
            os.write(process.stdin, _hello())
            data = await _output(process.stdout, answers=2)
        finally:
            await process.stop(0)
        found: dict[object, object] = {}
        for line in data.splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                message = json.loads(line)
                if "result" in message:
                    found[message["id"]] = message["result"]
        return [found[1], found[2]] if {1, 2} <= set(found) else None


def _words(launch: Launch) -> list[str]:
    """Return the command line; of a neutral launch even a secret is a placeholder."""
    return [word.reveal() if isinstance(word, Secret) else word for word in launch.argv]


def _hello() -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in _HELLO)


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


def _taken(path: Path) -> bytes | None:
    """Read and remove what a server wrote; it is untrusted. Blocking."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        text = file.read(_LARGEST_RESULT + 1)
    path.unlink(missing_ok=True)
    return text if len(text) <= _LARGEST_RESULT else None


async def _output(fd: int, *, answers: int | None) -> bytes:
    """Read a server's output to its end, or until it holds so many answers."""
    data = b""
    async with asyncio.timeout(_TRY_S):
        while answers is None or data.count(b'"result"') + data.count(b'"error"') < answers:
            await readable(fd)
            with contextlib.suppress(BlockingIOError):
                part = os.read(fd, 65_536)
                if not part or len(data) > _MOST_OUTPUT:
                    break
                data += part
    return data
