"""Enters a sandbox: `enter(profile)`, for a process that has just been forked and has one thread.

The order matters, and each step says why it is where it is. A fork is part of it, because a process
cannot move itself into a pid namespace: the caller goes outside, what `enter` returns in is the first
process inside. Everything it needs is loaded with this module: after the fork nothing is imported,
and no lock of another thread can be held, because there was none.

Fails closed: any step that fails raises, and the caller must end. Standard library only.
"""

import os
import resource
import select
import signal
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from mcphub.spawn.confinement import kernel, landlock, loopback, rooting
from mcphub.spawn.confinement.profile import UID, Profile

HOSTNAME: Final = "mcp"
_NAMESPACES: Final = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)
_NOBODY_FIRST: Final = "500"  # oom_score_adj: the kernel takes an instance before it takes the hub
# No uid change or exec ever gives capabilities back, not even to uid 0 (securebits, capabilities(7)).
_SECUREBITS: Final = 0b101111


class StepFailed(OSError):
    """A step of the sandbox was refused by the kernel.

    Attributes:
        step: Its name, for administrators.
    """

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(error.errno, f"{step}: {error.strerror}")
        self.step = step


def enter(
    profile: Profile,
    *,
    kept: Sequence[int] = (),
    told: Callable[[int], None] | None = None,
    waits: bool = False,
    first: bool = False,
) -> None:
    """Confine the calling process' child for ever; returns in that child only.

    With namespaces the child is the first process of its pid namespace: when it ends, everything in
    there ends, and it must reap orphans or live with them. Without namespaces nothing is forked and
    the calling process itself is confined.

    Args:
        profile: What to put in force.
        kept: Descriptors from 3 on that stay open inside; every other one is closed.
        told: Called outside with the host's pid of the child.
        waits: Stay outside until the child ends and end with its status, as a launcher must whose
            parent watches it; the child dies with the outer half. Otherwise the outer half leaves at
            once, and the child belongs to the nearest subreaper (PR_SET_CHILD_SUBREAPER), which must
            see to its end.
        first: The caller is the first process of a new pid namespace; then nothing is forked, and it
            returns in the caller. Not with an own user namespace, which must own that one.

    Raises:
        StepFailed: The kernel refused. The caller must end the process.
    """
    _step("join control groups", lambda: _join(profile.cgroups))
    if profile.namespaces:
        _step("enter network", lambda: _enter_network(profile))
        flags = _NAMESPACES & ~kernel.CLONE_NEWPID if first else _NAMESPACES
        _step("make namespaces", lambda: _make_namespaces(profile, flags))
        if not first:
            _fork(told, waits=waits)
        if profile.network < 0:
            _step("bring up loopback", loopback.bring_up)
        _step("name machine", lambda: kernel.set_hostname(HOSTNAME))
        _step("make root", lambda: rooting.make_root(profile))
    elif told is not None:
        told(os.getpid())
    _step("prefer for memory", _prefer_when_out_of_memory)
    _step("close descriptors", lambda: kernel.close_all_but(kept))
    _step("set limits", lambda: _set_limits(profile))
    _step("drop rights", lambda: _drop_rights(profile))
    if profile.readable or profile.writable:
        rules = (profile.readable, profile.writable)
        _step("landlock", lambda: landlock.restrict(*rules, tcp=profile.namespaces))
    if profile.seccomp:  # last: it forbids most of the above
        _step("system call filter", lambda: kernel.load_filter(profile.seccomp))


def _join(cgroups: Sequence[str]) -> None:
    """Join while the paths are still the host's, and before a fork: the child inherits membership."""
    for path in cgroups:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def _enter_network(profile: Profile) -> None:
    """Enter the namespace that the egress gateway made; before an own user namespace, which could not."""
    if profile.network < 0:
        return
    if profile.network_owner >= 0:
        kernel.setns(profile.network_owner, kernel.CLONE_NEWUSER)
    kernel.setns(profile.network, kernel.CLONE_NEWNET)


def _make_namespaces(profile: Profile, flags: int) -> None:
    """Leave for own namespaces. Root needs no user namespace: fewer parts, and real uids on files."""
    flags |= kernel.CLONE_NEWNET if profile.network < 0 else 0
    if profile.uid is not None:
        kernel.unshare(flags)
        return
    uid, gid = os.geteuid(), os.getegid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else the maps below belong to root
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    # setgroups is denied first: the kernel demands it before an unprivileged gid map.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{UID} {uid} 1"),
        ("gid_map", f"{UID} {gid} 1"),
    ):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _fork(told: Callable[[int], None] | None, *, waits: bool) -> None:
    """Go on as the first process of the new pid namespace."""
    outside = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        _stay_outside(child, told, waits=waits)
    if waits:
        _step("follow outer half", lambda: _die_with(outside))


def _stay_outside(child: int, told: Callable[[int], None] | None, *, waits: bool) -> NoReturn:
    """Be the outer half. It holds nothing of the instance but its standard descriptors; never returns."""
    status = 1
    try:
        if told is not None:
            told(child)
        status = 0
        if waits:
            # Its pipes must end with the instance, not with this process.
            empty = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            for fd in (0, 1, 2):
                os.dup2(empty, fd)
            kernel.close_all_but(())
            while True:
                pid, result = os.waitpid(child, 0)
                if pid == child:
                    break
            code = os.waitstatus_to_exitcode(result)
            status = 128 - code if code < 0 else code
    finally:
        os._exit(status)


def _die_with(outside: int) -> None:
    """Arm dying with the outer half; a pidfd tells whether it died before that was armed."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(outside, select.POLLIN)
    if poll.poll(0):
        os._exit(1)
    os.close(outside)


def _prefer_when_out_of_memory() -> None:
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # no /proc here: a convenience for the others, not a part of isolation
    try:
        os.write(fd, _NOBODY_FIRST.encode())
    finally:
        os.close(fd)


def _set_limits(profile: Profile) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold credentials
    resource.setrlimit(resource.RLIMIT_NOFILE, (profile.files, profile.files))
    if profile.file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (profile.file_bytes, profile.file_bytes))
    if profile.processes:
        resource.setrlimit(resource.RLIMIT_NPROC, (profile.processes, profile.processes))


def _drop_rights(profile: Profile) -> None:
    """Become the user and nobody more. Each line closes a way back that the others leave open."""
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    privileged = profile.namespaces or os.geteuid() == 0
    if privileged:  # without a namespace a plain user has nothing to drop, and may not try
        kernel.drop_bounding_set()
        kernel.prctl(kernel.PR_SET_SECUREBITS, _SECUREBITS)
    if profile.uid is not None:
        os.setgroups([])  # first: it needs the right that setresuid gives up
        os.setresgid(profile.uid, profile.uid, profile.uid)
        os.setresuid(profile.uid, profile.uid, profile.uid)
    kernel.drop_capabilities()
    # The change of uid took the own /proc/self away; pid namespace and uid protect it from others.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)


def _step(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except OSError as error:
        raise StepFailed(name, error) from None
