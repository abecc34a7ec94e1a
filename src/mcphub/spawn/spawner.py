"""The `Spawner` seam: start one MCP server process for one owner, with its pipes.

Above it: `spawn.pool` decides when; below it: the operating system. A spawner knows nothing of MCP,
of users' names or of policy beyond the permit it demands. Implementations: `spawn.sandboxed`
(bubblewrap or own code) and `spawn.unsandboxed` (warns everywhere). One contract suite runs on all.
"""

from asyncio import Future
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mcphub.catalog.spec import SandboxSpec
from mcphub.vault.secret import Secret


@dataclass(frozen=True, slots=True)
class Told:
    """What the user contexts of one instance have in common; fixed at its start.

    Attributes:
        credentials: The owner's credentials, encrypted to the server (JWE), or "".
        key_id: Id of the signing key that the instance was told of; "" when it fetches keys itself.
    """

    credentials: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Preload:
    """What a zygote is made of; starts with equal ones may come from the same zygote.

    Attributes:
        python: Interpreter of the package's environment, absolute: the first word of `argv`.
        modules: What it imports, in this order. Nothing of a user may change what that does.
        later: Modules that each instance imports; of these it reads the code, and runs none.
    """

    python: str
    modules: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Warm:
    """What a warm worker loads before it knows its user; starts with equal ones may take the same.

    Attributes:
        node: The interpreter, absolute: the first word of `argv`; the second is the script.
        modules: `import FILE` or `require FILE`, in this order, then `link FILE` for ES modules that
            are read and compiled, and not executed. Nothing of a user may change what that does.
        trial: Bring up a worker for this start, and fail if that fails.
    """

    node: str
    modules: tuple[str, ...] = ()
    trial: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything that one instance is made of; fixed at exec (rule R9).

    Attributes:
        instance_id: Opaque id, `i_…`.
        owner: Opaque id of the user, or `neutral` / `shared`; never a name (rule R23).
        number: The owner's number (0 for neutral, 1 for shared, users from 16); with the spawner's
            base it gives the kernel uid where the hub is root.
        argv: Program and arguments, already expanded; the program is an absolute path. A `Secret`
            among them stays out of every host-side command line where the spawner can do so.
        env: The complete environment of the child, built from empty (rule R10). The spawner adds
            only HOME, PATH, TMPDIR, USER, LOGNAME, LANG when they are not given.
        home: Private, persistent directory on the host; created (0700) when missing.
        files: Path below the home -> text of a file that appears there, in memory only (`spawn.laid`).
            None for no place for such files; empty for the place alone.
        secrets: The values that went into those, to be hidden wherever the server says them.
        cwd: Directory inside the instance, relative to its home unless absolute; empty = home.
        readable: Host paths that appear read-only at the same place (package, interpreter, …).
        own: Directories below `readable` of which the instance sees a copy that its owner keeps and
            may write to (`spawn.copies`).
        sandbox: Egress list and limits.
        told: What its requests tell about the user beside the request itself.
        preload: The zygote that it may be forked from, or the warm worker that it may become.
    """

    instance_id: str
    owner: str
    number: int
    argv: tuple[str | Secret, ...]
    home: Path
    env: Mapping[str, str | Secret] = field(default_factory=dict)
    files: Mapping[str, str | Secret] | None = None
    secrets: tuple[Secret, ...] = ()
    cwd: str = ""
    readable: tuple[Path, ...] = ()
    own: tuple[Path, ...] = ()
    sandbox: SandboxSpec = SandboxSpec()
    told: Told = Told()
    preload: Preload | Warm | None = None


class StderrTail(Protocol):
    """The last lines that an instance wrote to stderr: bounded, secrets redacted by value."""

    def lines(self) -> list[str]:
        """Return the kept lines, oldest first, already redacted and neutralised (rule R24)."""
        ...


class Process(Protocol):
    """One running instance's process tree, as its spawner sees it."""

    @property
    def pid(self) -> int:
        """Pid of the outermost process on the host."""
        ...

    @property
    def stdin(self) -> int:
        """Writable, non-blocking descriptor; the process owns it and closes it in `stop`."""
        ...

    @property
    def stdout(self) -> int:
        """Readable, non-blocking descriptor; likewise."""
        ...

    @property
    def stderr(self) -> StderrTail:
        """What it wrote to stderr lately."""
        ...

    @property
    def exited(self) -> "Future[int]":
        """Done when the outermost process is gone: exit status, negative for a signal.

        Reading stdout to its end first is the reader's business.
        """
        ...

    @property
    def proven(self) -> "Future[None]":
        """Done when the server has answered its opening (`prove`), or is gone."""
        ...

    def prove(self) -> None:
        """Take the news that the server has answered: what was put off for its start may go on. Idempotent."""
        ...

    def why(self) -> str:
        """Return which limit it has reached, as a sentence for its user; empty for none."""
        ...

    async def pause(self) -> None:
        """Take processor time away from the whole tree, and its memory where there is swap. Idempotent."""
        ...

    def resume(self) -> None:
        """Undo `pause`; at once."""
        ...

    async def stop(self, grace_s: float = 5.0) -> None:
        """End the whole tree: close stdin, wait a moment; TERM, wait `grace_s`; KILL.

        Idempotent; returns when all is gone. One without grace hurries one that waits.
        """
        ...


class Spawner(Protocol):
    """Starts instances. Entered once by `app` as an async context manager.

    Its level is what the start-up self-test found (see docs/reference/sandbox.md).
    """

    @property
    def level(self) -> int:
        """Sandbox level, 0 to 5."""
        ...

    @property
    def warning(self) -> str:
        """Sentence that every page shows, or empty."""
        ...

    @property
    def means(self) -> str:
        """What confines instances: `bubblewrap`, `own code`, or empty for nothing."""
        ...

    def home_inside(self, launch_home: Path) -> str:
        """Return the path at which the instance sees its home (`${USER_HOME}`)."""
        ...

    async def start(self, launch: Launch) -> Process:
        """Start the process tree; returns once the outermost process exists.

        Raises:
            Unavailable: The machine cannot start it now (limits, no sandbox).
            UpstreamFailed: The program cannot be executed.
        """
        ...
