"""A program that enters a sandbox and becomes a command in it; started by `spawn.confined`.

    python -I -S -c BOOT PROFILE_FD COMMAND_FD INFO_FD HUB_PID < stdin > stdout

PROFILE_FD holds a profile as JSON. COMMAND_FD holds `{"argv", "env", "cwd"}` and is read only by the
process that becomes the command, so credentials are in no other. INFO_FD is told the pid of the first
process inside, as bubblewrap's `--info-fd` does. Standard library only.
"""

import json
import os
import signal
import sys
from typing import NoReturn

from mcphub.spawn.confinement import entering, kernel
from mcphub.spawn.confinement.profile import Profile

NAME = "mcphub-sandbox"
"""How it calls itself when it says on stderr why a start failed."""


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

    entering.enter(profile, kept=(command_fd,), told=told, waits=True)
    if not profile.namespaces:
        _execute(command_fd)
    server = os.fork()
    if not server:
        _execute(command_fd)
    os.close(command_fd)
    _be_init(server)


def _execute(command_fd: int) -> None:
    """Become the command, as the user, in a session of its own."""
    with open(command_fd, "rb") as file:
        command = json.loads(file.read())
    if os.getsid(0) != os.getpid():
        os.setsid()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, exec would keep that
        signal.signal(number, signal.SIG_DFL)
    os.makedirs(command["cwd"], exist_ok=True)
    os.chdir(command["cwd"])
    try:
        os.execve(command["argv"][0], command["argv"], command["env"])
    except OSError as error:
        os.write(2, f"{NAME}: the program cannot be executed: {error.strerror}\n".encode())
        os._exit(127)


def _be_init(server: int) -> NoReturn:
    """Reap every orphan; end with the server's status, and everything in here ends with it.

    Its pipes are the server's business: this process keeps none of them.
    """
    empty = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(empty, fd)
    os.close(empty)
    while True:
        pid, result = os.waitpid(-1, 0)
        if pid == server:
            code = os.waitstatus_to_exitcode(result)
            os._exit(128 - code if code < 0 else code)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
