"""A program that enters a sandbox and becomes a command in it; started by `spawn.confined`.

    python -I -S -c BOOT PROFILE_FD COMMAND_FD INFO_FD HUB_PID < stdin > stdout

PROFILE_FD holds a profile as JSON. COMMAND_FD holds `{"argv", "env", "files", "home", "cwd", "tmp"}` and is read only by the
process that becomes the command, so credentials are in no other. INFO_FD is told the pid of the first
process inside, as bubblewrap's `--info-fd` does. Standard library only.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from mcphub.spawn.confinement import entering, kernel
from mcphub.spawn.confinement.laying import lay
from mcphub.spawn.confinement.profile import Profile

NAME: Final = "mcphub-sandbox"
"""How it calls itself when it says on stderr why a start failed."""
_MOST_ROUNDS: Final = 10_000


def main(profile_fd: int, command_fd: int, info_fd: int, hub: int) -> NoReturn:
    """Run; never returns."""
    try:
        _run(profile_fd, command_fd, info_fd, hub)
    except (OSError, ValueError, KeyError, TypeError) as error:
        os.write(2, f"{NAME}: {error}\n".encode())
    finally:
        os._exit(1)


def _run(profile_fd: int, command_fd: int, info_fd: int, hub: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != hub:
        return  # the hub died before that was armed
    os.umask(0o077)
    with open(profile_fd, "rb") as file:
        profile = Profile.from_json(file.read())

    def told(pid: int) -> None:
        os.write(info_fd, f'{{"child-pid": {pid}}}\n'.encode())
        os.close(info_fd)

    if not profile.namespaces:
        _guard(profile, command_fd, told)
    entering.enter(profile, kept=(command_fd,), told=told, waits=True)
    server = os.fork()
    if not server:
        _execute(command_fd)
    os.close(command_fd)
    _detach()
    _end_with(server)


def _guard(profile: Profile, command_fd: int, told: Callable[[int], None]) -> NoReturn:
    """Stay outside of a sandbox without a pid namespace, adopt what the server leaves, end it with it.

    What leaves its session or its parent still becomes a child of this process (prctl(2),
    PR_SET_CHILD_SUBREAPER), so nothing escapes. When the hub ends, this process is told by TERM.
    """
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)

    def on_term(*_: object) -> None:
        _end_descendants()
        os._exit(1)

    signal.signal(signal.SIGTERM, on_term)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGTERM)
    server = os.fork()
    if not server:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        entering.enter(profile, kept=(command_fd,))
        _execute(command_fd)
    told(server)
    _detach()
    kernel.close_all_but(())
    _end_with(server, at_last=_end_descendants)


def _end_descendants() -> None:
    """KILL every process below this one, and those that appear meanwhile."""
    own = os.getpid()
    for _ in range(_MOST_ROUNDS):
        found = _below(own)
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _below(pid: int) -> list[int]:
    direct: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                direct += map(int, file.read().split())
    return [each for child in direct for each in (child, *_below(child))]


def _execute(command_fd: int) -> None:
    """Become the command, as the user, in a session of its own."""
    with open(command_fd, "rb") as file:
        command = json.loads(file.read())
    os.setsid()  # no terminal and no group in common with anything outside
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, exec would keep that
        signal.signal(number, signal.SIG_DFL)
    for place in (command["tmp"], command["cwd"]):
        os.makedirs(place, exist_ok=True)
    lay(command["files"], command["home"])
    os.chdir(command["cwd"])
    try:
        os.execve(command["argv"][0], command["argv"], command["env"])
    except OSError as error:
        os.write(2, f"{NAME}: the program cannot be executed: {error.strerror}\n".encode())
        os._exit(127)


def _detach() -> None:
    """Hold none of the server's pipes: they must end with the server."""
    empty = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(empty, fd)
    os.close(empty)


def _end_with(server: int, at_last: Callable[[], None] = lambda: None) -> NoReturn:
    """Reap every orphan; end with the server's status."""
    while True:
        pid, result = os.waitpid(-1, 0)
        if pid == server:
            at_last()
            code = os.waitstatus_to_exitcode(result)
            os._exit(128 - code if code < 0 else code)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
