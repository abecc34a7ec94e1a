"""Makes what a child of a zygote cannot make and must not choose: its home as a mount, its network.

One process per hub, of the hub's code only, with the hub's rights and sight of the file system; a
zygote has neither. For every start it forks a helper that enters the zygote's user namespace, so
that what it makes belongs there and the child may use it. It learns opaque paths and ports, never a
value of a user. It ends when the hub closes the socket pair. Standard library only.
"""

import json
import os
import signal
import socket
from typing import Any, Final, NoReturn

from mcphub.spawn.confinement import kernel
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
