"""How a server's instances are started: chosen once per package by looking and by trying.

A server of the package store need not be executed anew for each instance: a Python one may be forked
from a zygote, a Node.js one may begin in a warm worker. What either may load before it knows a user
is found by an audit, and that the server then is the same by a comparison: what it answers to
`initialize` and `tools/list`, started either way by nobody in particular. All of that happens in the
sandbox of a neutral instance. Whatever is not proven is started plainly, and the reason is told.

Not here: what is kept (`findings`), the audits (`zygote.finding`, `warm.finding`), the starting
(`zygote`, `warm`), what a launch consists of (`launching`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError, Unavailable
from mcphub.spawn.findings import Finding, Findings
from mcphub.spawn.spawner import Launch, Preload, Spawner, Warm
from mcphub.spawn.trials import ROUNDS, TRY_S, Trials, words_of
from mcphub.spawn.warm import finding as of_node
from mcphub.spawn.zygote import finding as of_python

_log = structlog.get_logger()

AUTO: Final = "auto"
PLAIN: Final = "plain"
ZYGOTE: Final = "zygote"
WARM: Final = "warm"
_PAUSE_S: Final = 600.0
# Read by the interpreter, the loader or the C library when a program starts, so too early for both.
_AT_START: Final = ("LD_", "MALLOC_", "GLIBC_", "LC_", "LANG", "LANGUAGE")
_OF_PYTHON: Final = (*_AT_START, "PYTHON")
_OF_NODE: Final = (*_AT_START, "NODE_", "UV_", "SSL_", "OPENSSL_", "ICU_", "TZ")
_OF_USER_CONTEXT: Final = "MCPHUB_USER_CONTEXT"  # `launching.TRUST_VARIABLE`
_HARMLESS: Final = frozenset({"PYTHONUNBUFFERED", "NODE_ENV"})


@dataclass(frozen=True, slots=True)
class StartMode:
    """How instances of a server are started.

    Attributes:
        kind: `plain`, `zygote` or `warm`.
        reason: A sentence for administrators.
        preload: What is loaded before, unless it is plain.
    """

    kind: str
    reason: str
    preload: Preload | Warm | None = None


def plain(reason: str) -> StartMode:
    """Return the mode that always works."""
    return StartMode(PLAIN, reason)


def mode_of(spec: ServerSpec, argv: Sequence[str], findings: Findings) -> StartMode | None:
    """Return how a program of this spec is started; None when that has to be found out first."""
    if spec.sandbox.start == PLAIN:
        return plain("The settings say so (`sandbox.start`).")
    if spec.sandbox.own_package:
        return plain("Each user has an own copy of its package (`sandbox.ownPackage`).")
    node = of_node.is_package(argv)
    if not node and not of_python.is_package(argv):
        return plain("Only servers of the package store are started otherwise.")
    at_start = _OF_NODE if node else _OF_PYTHON
    early = [name for name in spec.env if name.startswith(at_start) and name not in _HARMLESS]
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
    rest = f"; not: {unfit}." if unfit else "."
    count = len(finding.modules)
    if node:
        reason = f"{count} modules are loaded by a process that waits for its user{rest}"
        return StartMode(WARM, reason, Warm(argv[0], finding.modules))
    reason = f"{count} modules are imported once for all instances{rest}"
    return StartMode(ZYGOTE, reason, Preload(argv[0], finding.modules, finding.later))


class Prover:
    """Finds out what may be loaded early. Only for a neutral launch: nothing here is a user's.

    Args:
        spawner: Starts what is tried.
        findings: Where the outcome is kept.
    """

    def __init__(self, spawner: Spawner, findings: Findings) -> None:
        self.findings = findings
        self._trials = Trials(spawner)
        self._one = asyncio.Lock()
        self._not_before: dict[tuple[str, ...], float] = {}

    async def prove(self, launch: Launch) -> None:
        """Look at the program of a neutral launch and keep the finding. Takes seconds.

        The home of the launch is used, and is worthless afterwards. What failed for want of time or of
        anything else that the machine lacks now is tried again, but not at once.
        """
        argv = words_of(launch)[:2]
        now = asyncio.get_running_loop().time()
        if now < self._not_before.get(tuple(argv), now):
            return
        find = of_node.find if of_node.is_package(argv) else of_python.find
        try:
            async with self._one, asyncio.timeout(ROUNDS * TRY_S):
                finding = self.findings.read(argv) or await find(self._trials, launch)
        except (TimeoutError, Unavailable) as error:
            self._not_before[tuple(argv)] = now + _PAUSE_S
            _log.warning("start.not_found", argv=argv[1:], error=type(error).__name__)
            return
        except (HubError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"The audit of its imports failed ({type(error).__name__})."
            finding = Finding(why_plain=reason)
        _log.info("start.found", argv=argv[1:], modules=len(finding.modules), why=finding.why_plain)
        await asyncio.to_thread(self.findings.write, argv, finding)
