"""Makes what an instance cannot make and must not choose: its home as a mount, its network.

One process per hub, of the hub's code only, with the hub's rights and sight of the file system; a
zygote has neither. For every start it forks a helper that enters the zygote's user namespace, so
that what it makes belongs there and the child may use it. To a warm worker, which is in its sandbox
already, the helper attaches the home there. It learns opaque paths and ports, never a
value of a user. It ends when the hub closes the socket pair. Standard library only.
"""

import json
import os
import signal
import socket
from typing import Any, Final, NoReturn

from mcphub.spawn.confinement import kernel
from mcphub.spawn.confinement.profile import HOME
from mcphub.spawn.egress import netns
from mcphub.spawn.zygote.messages import receive

MAX_MESSAGE: Final = 64 * 1024


def main(control_fd: int, hub: int) -> NoReturn:
    """Serve the hub on an inherited socket until it closes it."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != hub:
        os._exit(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # helpers leave no zombie
    control = socket.socket(fileno=control_fd)
    while True:
        data, fds = receive(control, MAX_MESSAGE, 1)
        if not data:
            os._exit(0)
        if not os.fork():
            _help(control, json.loads(data), fds[0])
        for fd in fds:
            os.close(fd)


def _help(control: socket.socket, asked: dict[str, Any], namespace: int) -> NoReturn:
    """Answer one request: the home's mount, then the network namespace and its sockets."""
    reply: dict[str, Any] = {"id": asked["id"]}
    fds: list[int] = []
    try:
        try:
            if "owners" in asked:
                _attach(asked["home"], asked["owners"], namespace)
            else:
                fds = _make(asked["home"], asked["ports"], namespace)
        except OSError as error:
            reply["error"] = error.strerror or "error"
        socket.send_fds(control, [json.dumps(reply).encode()], fds)
    finally:
        os._exit(0)


def _make(home: str, ports: list[int] | None, namespace: int) -> list[int]:
    if os.geteuid() == 0:
        fds = [kernel.clone_tree(home)]
        if ports is not None:
            kernel.setns(namespace, kernel.CLONE_NEWUSER)
    else:  # the right to clone mounts exists only in there, for mounts that belong there
        kernel.setns(namespace, kernel.CLONE_NEWUSER)
        kernel.unshare(kernel.CLONE_NEWNS)
        fds = [kernel.clone_tree(home)]
    if ports is not None:
        space = netns.make(ports)
        fds += [space.fd, *(sock.detach() for sock in space.sockets())]
    return fds


def _attach(home: str, owners: list[int] | None, mounts: int) -> None:
    """Put a home into a sandbox that runs, in the place of the empty one that it was started with.

    Args:
        home: On the host.
        owners: Kernel uid of its files, and the one that the sandbox runs as; None: they are one.
        mounts: Mount namespace of the sandbox.
    """
    if os.geteuid() != 0:
        kernel.setns(kernel.owner_of(mounts), kernel.CLONE_NEWUSER)
        kernel.unshare(kernel.CLONE_NEWNS)
    tree = kernel.clone_tree(home)
    kernel.set_attributes(tree, kernel.ATTR_NOSUID | kernel.ATTR_NODEV)
    if owners is not None:
        kernel.map_owner(tree, _mapping(*owners))
    kernel.setns(mounts, kernel.CLONE_NEWNS)
    kernel.unmount(HOME)  # what was opened there stays open, but nothing can be made there any more
    kernel.attach(tree, HOME)  # follows no link at its end, and the rest is the profile's own


def _mapping(owner: int, shown: int) -> int:
    """Return a user namespace in which one uid stands for another."""
    asks, answers = os.pipe2(os.O_CLOEXEC)
    waits, lives = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        os.close(lives)
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(answers, b"x")
            os.read(waits, 1)  # until the other end is closed
        finally:
            os._exit(0)
    os.close(answers)
    try:
        if os.read(asks, 1):
            for name in ("uid_map", "gid_map"):
                fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                os.write(fd, f"{owner} {shown} 1".encode())
                os.close(fd)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(lives)
