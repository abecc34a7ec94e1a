"""Builds sandboxes with the hub's own code (`confinement`): where bubblewrap is missing, and below namespaces.

One start is one Python process that enters and stays outside as a guard, one inside that reaps, and
the server. Without namespaces (levels 2 and 1) the guard adopts and ends what the server leaves
behind, no network is allowed at all, and every path is the host's.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Final

from mcphub.errors import Unavailable
from mcphub.spawn import bubblewrap, copies, laid, seccomp
from mcphub.spawn.building import Order, Start, environment, memory_file
from mcphub.spawn.confinement import launcher
from mcphub.spawn.confinement.laying import PLACE
from mcphub.spawn.confinement.profile import HOME, Bind, Profile
from mcphub.spawn.process import children
from mcphub.vault.secret import Secret

_MIB: Final = 1024 * 1024
_BOOT: Final = (
    "import sys; sys.path.append(sys.argv.pop(1));"
    "from mcphub.spawn.confinement.launcher import main; main(*map(int, sys.argv[1:]))"
)
_SOURCES: Final = str(Path(__file__).parents[2])
# Without a root of its own: what of the machine a program needs to run. Everything else is closed.
_SYSTEM_FILES: Final = (
    *("passwd", "group", "hosts", "nsswitch.conf", "ld.so.cache", "localtime", "timezone"),
    *("mime.types", "services", "protocols"),
)
_FACTS: Final = ("meminfo", "cpuinfo", "stat", "loadavg", "version", "filesystems")
_DEVICES: Final = ("null", "zero", "full", "random", "urandom")


class Confined:
    """Implements `building.Builder`.

    Args:
        etc: The instances' `/etc` (`bubblewrap.write_etc`).
        namespaces: Whether this machine allows them.
        overlay: Show read-only files through overlays.
        landlock: Whether this machine has it.
    """

    speakers = (launcher.NAME,)

    def __init__(self, etc: Path, *, namespaces: bool, overlay: bool, landlock: bool) -> None:
        self.namespaces = namespaces
        self._etc = etc
        self._overlay = overlay
        self._landlock = landlock

    def home_inside(self, home: Path) -> str:
        """Return `/home/u`, or the home itself where there is no other view of the files."""
        return HOME if self.namespaces else str(home)

    def server_of(self, pid: int) -> list[int]:
        """Return what runs below the guard, past the process that reaps."""
        inside = children(pid)
        return (
            [server for init in inside for server in children(init)] if self.namespaces else inside
        )

    def build(self, order: Order, fds: contextlib.ExitStack) -> Start:
        """Return the launcher with its two descriptors.

        Raises:
            InvalidInput: A value holds a NUL character, or the files are too large.
            Unavailable: The server needs a network, which nothing here can confine, or files in memory.
        """
        launch = order.launch
        if not self.namespaces and not order.network.own:
            raise Unavailable(
                "This machine cannot confine the network of a server, and this one needs it.",
                hint="An administrator finds the cause with: mcphub doctor",
            )
        if not self.namespaces:
            laid.refuse(launch)
        home = self.home_inside(launch.home)
        tmp = "/tmp" if self.namespaces else f"{home}/.tmp"  # noqa: S108  inside
        argv = [arg.reveal() if isinstance(arg, Secret) else arg for arg in launch.argv]
        env = environment(launch.env, home, tmp)
        bubblewrap.refuse_nul([*argv, *env.values()])
        cwd = os.path.normpath(os.path.join(home, launch.cwd))  # noqa: PTH118  normalises `..` too
        files = laid.plain(launch)
        command = {"argv": argv, "env": env, "files": files, "home": home, "cwd": cwd, "tmp": tmp}
        profile = self.inside(order) if self.namespaces else self._on_the_host(order)
        passed = [
            memory_file(fds, profile.to_json().encode()),
            memory_file(fds, json.dumps(command).encode()),
            order.info_fd,
        ]
        if order.network.namespace >= 0:
            passed += [order.network.namespace, order.network.user_namespace]
        program = [sys.executable, "-I", "-S", "-c", _BOOT, _SOURCES]
        return Start([*program, *map(str, passed[:3]), str(os.getpid())], passed)

    def inside(self, order: Order) -> Profile:
        """Return the profile with namespaces."""
        binds = [self._shown("/usr"), self._shown(str(self._etc), "/etc")]
        links: list[tuple[str, str]] = []
        for name in bubblewrap.SYSTEM:
            place = Path("/", name)
            if place.is_symlink():
                links.append((str(place), f"usr/{name}"))
            elif place.is_dir():
                binds.append(self._shown(str(place)))
        binds += [self._shown(f"/etc/{name}") for name in bubblewrap.etc_directories()]
        binds += [self._shown(str(place)) for place in order.places]
        own = copies.of(order.launch)
        binds += [Bind(str(copy), str(place), writable=True) for copy, place in own]
        binds.append(Bind(str(order.launch.home), HOME, writable=True))
        network = order.network
        files = order.launch.files is not None
        writable = (HOME, "/tmp", "/dev", "/proc", *(str(place) for _, place in own))  # noqa: S108
        return Profile(
            uid=order.uid,
            binds=tuple(binds),
            texts=() if order.uid is None else bubblewrap.account_files(order.uid),
            links=tuple(links),
            network=network.namespace,
            network_owner=network.user_namespace if order.uid is None else -1,
            cgroups=tuple(order.join_files),
            tmp_bytes=order.launch.sandbox.tmp_mb * _MIB,
            memory_files=files,
            files=order.files,
            file_bytes=order.file_bytes,
            processes=order.most_processes or 0,
            seccomp=seccomp.program(),
            # A second fence behind the mounts: a hole in one of them is not a hole in both.
            readable=("/",) if self._landlock else (),
            writable=(*writable, *([PLACE] if files else [])) if self._landlock else (),
        )

    def _on_the_host(self, order: Order) -> Profile:
        """The profile without namespaces: nothing but what is named here can be opened."""
        return Profile(
            namespaces=False,
            uid=order.uid,
            cgroups=tuple(order.join_files),
            files=order.files,
            file_bytes=order.file_bytes,
            # Counted over all processes of a uid: only for a uid that is the user's own.
            processes=order.most_processes or 0 if order.uid is not None else 0,
            seccomp=seccomp.program(alone=True),
            readable=(
                "/usr",
                *(f"/{name}" for name in bubblewrap.SYSTEM),
                *(f"/etc/{name}" for name in (*_SYSTEM_FILES, *bubblewrap.etc_directories())),
                *(f"/proc/{name}" for name in ("self", *_FACTS)),
                *map(str, order.places),
            ),
            writable=(str(order.launch.home), *(f"/dev/{name}" for name in _DEVICES)),
        )

    def _shown(self, source: str, place: str = "") -> Bind:
        return Bind(source, place or source, own_inodes=self._overlay)
