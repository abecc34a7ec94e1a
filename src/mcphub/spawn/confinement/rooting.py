"""The root of a sandbox: built in memory, filled with mounts of the host, made read-only, pivoted into.

Called by `entering` as the first process of new namespaces. Sources are taken as detached trees
before anything is covered, so their paths never matter afterwards, and the host's root is gone at
the end. Standard library only.
"""

import os
import stat
from typing import Final

from mcphub.spawn.confinement import kernel, laying
from mcphub.spawn.confinement.profile import Bind, Profile

_STAGE: Final = "/tmp"  # noqa: S108  covered in the own mount namespace only
_BASE: Final = f"{_STAGE}/root"
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# Parts of /proc that steer the machine. The uid has no right on them; read-only holds also for uid 0.
_PROC_READ_ONLY: Final = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_PLAIN: Final = kernel.MS_NOSUID | kernel.MS_NODEV
_EMPTY: Final = f"{_STAGE}/empty"  # an overlay that is only read needs a second layer


def make_root(profile: Profile) -> None:
    """Build the root of `profile` and make it this process' root.

    Raises:
        OSError: A source is not there, or the kernel refuses.
    """
    # Mounts of this namespace must not reach the host; those of the host may come (an unmount must).
    kernel.mount("", "/", kernel.MS_REC | kernel.MS_SLAVE)
    trees = [(bind, _take(bind)) for bind in profile.binds]
    devices = [(name, kernel.clone_tree(f"/dev/{name}")) for name in _DEVICES]
    os.umask(0o022)
    # What overlays are made of lies beside the new root and is left behind with the old one: to unmount
    # it one by one would wait for all processors each time.
    kernel.mount("tmpfs", _STAGE, _PLAIN, "size=64k,mode=0755")
    for place in (_BASE, _EMPTY):
        os.mkdir(place)
    kernel.mount("tmpfs", _BASE, _PLAIN, "size=1m,mode=0755")
    os.chdir(_BASE)
    for place in ("proc", "dev", "tmp", "run", "run/mcp", "var"):
        os.mkdir(place)
    _fill_proc()
    _fill_dev(devices, profile.tmp_bytes)
    kernel.mount("tmpfs", "tmp", _PLAIN, f"size={profile.tmp_bytes},mode=1777")
    os.symlink("/tmp", "var/tmp")  # noqa: S108  inside the sandbox
    if profile.memory_files:
        _make_place_of_files(os.geteuid() if profile.uid is None else profile.uid)
    for index, (bind, tree) in enumerate(trees):  # after /tmp: one may lie below it
        _put(bind, tree, index)
    for index, (place, text) in enumerate(profile.texts):
        _write(f"run/mcp/{index}", text, place)
    for place, target in profile.links:
        os.symlink(target, place.lstrip("/"))
    kernel.set_attributes_of("dev", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID)
    kernel.pivot_root_here()
    kernel.unmount(".")  # the host's root, which now lies on top, and the stage in it
    os.chdir("/")
    kernel.set_attributes_of("/", kernel.ATTR_RDONLY | kernel.ATTR_NOSUID | kernel.ATTR_NODEV)


def _make_place_of_files(uid: int) -> None:
    place = laying.PLACE.lstrip("/")
    os.mkdir(place)
    options = f"size={laying.MOST_BYTES},mode=0700,uid={uid},gid={uid}"
    kernel.mount("tmpfs", place, _PLAIN | kernel.MS_NOEXEC, options)


def _take(bind: Bind) -> int:
    """Return a detached copy of a tree of the host, without set-uid programs and devices."""
    tree = kernel.clone_tree(bind.source)
    attributes = kernel.ATTR_NOSUID | kernel.ATTR_NODEV
    kernel.set_attributes(tree, attributes if bind.writable else attributes | kernel.ATTR_RDONLY)
    return tree


def _put(bind: Bind, tree: int, index: int) -> None:
    place = bind.place.lstrip("/")
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    if directory:
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_CLOEXEC, 0o444))
    if bind.own_inodes and directory:
        _overlay(tree, place, index)
    else:
        kernel.attach(tree, place)
    os.close(tree)


def _write(file: str, text: str, place: str) -> None:
    """Make a small file, and let it appear over the one at `place`."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444)
    os.write(fd, text.encode())
    os.close(fd)
    tree = kernel.clone_tree(file)
    kernel.set_attributes(tree, kernel.ATTR_RDONLY)
    kernel.attach(tree, place.lstrip("/"))
    os.close(tree)


def _overlay(tree: int, place: str, index: int) -> None:
    """Show a tree through an overlay of its own. The lower mounts live on inside it, unreachable."""
    lower = f"{_STAGE}/{index}"
    os.mkdir(lower)
    kernel.attach(tree, lower)
    data = f"lowerdir={lower}:{_EMPTY}"
    kernel.mount("overlay", place, kernel.MS_RDONLY | _PLAIN, data)


def _fill_proc() -> None:
    kernel.mount("proc", "proc", _PLAIN | kernel.MS_NOEXEC)
    for name in _PROC_READ_ONLY:
        path = f"proc/{name}"
        if os.path.exists(path):
            tree = kernel.clone_tree(path)
            kernel.set_attributes(tree, kernel.ATTR_RDONLY)
            kernel.attach(tree, path)
            os.close(tree)


def _fill_dev(devices: list[tuple[str, int]], shm_bytes: int) -> None:
    """Make a /dev of harmless devices: bound, because a user namespace cannot make any."""
    kernel.mount("tmpfs", "dev", kernel.MS_NOSUID, "size=64k,mode=0755")
    for name, tree in devices:
        os.close(os.open(f"dev/{name}", os.O_CREAT | os.O_CLOEXEC, 0o666))
        kernel.attach(tree, f"dev/{name}")
        os.close(tree)
    for name, target in _DEVICE_LINKS:
        os.symlink(target, f"dev/{name}")
    os.mkdir("dev/pts")
    kernel.mount(
        "devpts",
        "dev/pts",
        kernel.MS_NOSUID | kernel.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    os.mkdir("dev/shm")
    kernel.mount("tmpfs", "dev/shm", _PLAIN, f"size={shm_bytes},mode=1777")
