"""The profile of an instance as bubblewrap options, and the private files that it sees as `/etc`.

Pure apart from `write_etc`: what the machine looks like is passed in as `Machine`. Everything
travels to bubblewrap in one descriptor (`--args`), so that no value shows in a command line on the
host. Not here: namespaces of mounts and network prepared before bubblewrap (`sandboxed`).
"""

import functools
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcphub.errors import InvalidInput
from mcphub.spawn.confinement.laying import MOST_BYTES, PLACE
from mcphub.vault.secret import Secret

HOME: Final = "/home/u"
USER: Final = "mcp"
UID: Final = 1000
SYSTEM: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Directories beside `/usr` that every instance sees as the machine has them."""
_EXEC: Final = "/run/mcp/exec"
_MIB: Final = 1024 * 1024
# Places that the profile itself fills; nothing of the host may be laid over them.
_RESERVED: Final = tuple(map(Path, ("/", "/proc", "/dev", "/sys", "/etc", "/run", "/home")))
_PASSWD: Final = "root:x:0:0:root:/:/bin/false\n{user}:x:{uid}:{uid}::{home}:/bin/sh\n"  # noqa: S105
_GROUP: Final = "root:x:0:\n{user}:x:{uid}:\n"
_ETC: Final = {
    "passwd": _PASSWD.format(user=USER, uid=UID, home=HOME),
    "group": _GROUP.format(user=USER, uid=UID),
    "hosts": "127.0.0.1 localhost\n127.0.1.1 mcp\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    # `use-vc` is not set: the gateway answers UDP and TCP.
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:3 attempts:2\n",
    "hostname": "mcp\n",
}
_ETC_COPIES: Final = ("ld.so.cache", "localtime", "timezone", "mime.types", "services", "protocols")
_ETC_BINDS: Final = ("alternatives", "ssl/certs", "pki/tls/certs", "ca-certificates", "fonts")
# Where Debian keeps what programs below /usr do not start without, or not rightly; for every user of a machine.
_ETC_OF_PROGRAMS: Final = (
    *("chromium", "chromium.d", "java-*-openjdk", "ImageMagick-*", "libreoffice", "R", "perl", "texmf"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where the host's directories are found by bubblewrap, after any staging.

    Attributes:
        usr: Source of `/usr`.
        etc: Source of `/etc`, made by `write_etc`.
        home: Source of the home.
        readable: (source, place inside) of what is read-only.
        own: (source, place inside) of the owner's writable copies, which lie over `readable`.
    """

    usr: str
    etc: str
    home: str
    readable: tuple[tuple[str, str], ...] = ()
    own: tuple[tuple[str, str], ...] = ()


def readable_places(paths: Sequence[Path]) -> list[Path]:
    """Return the paths to mount: normalised, parents first, without what is visible anyway.

    Raises:
        InvalidInput: A path is not absolute or would cover a part of the sandbox.
    """
    places: list[Path] = []
    for path in sorted({Path(os.path.normpath(path)) for path in paths}):
        if path.is_relative_to("/usr"):
            continue
        if not path.is_absolute() or path in _RESERVED or Path(HOME).is_relative_to(path):
            raise InvalidInput(
                "A readable path of the server cannot be shown inside the sandbox.",
                hint="`sandbox.readable` takes absolute paths below the system directories.",
            )
        if any(path.is_relative_to(place) for place in places):
            continue
        places.append(path)
    return places


@functools.cache
def etc_directories() -> tuple[str, ...]:
    """Return the directories of the machine's `/etc` that appear inside, as they are when first asked for."""
    etc = Path("/etc")
    found = [name for name in _ETC_BINDS if (etc / name).is_dir()]
    for pattern in _ETC_OF_PROGRAMS:
        found += sorted(place.name for place in etc.glob(pattern) if place.is_dir())
    return tuple(found)


def write_etc(folder: Path) -> None:
    """Write the minimal `/etc` of every instance into `folder`; holds nothing of any user."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in _ETC.items():
        (folder / name).write_text(text)
    for name in _ETC_COPIES:
        source = Path("/etc", name)
        if source.is_file():
            shutil.copyfile(source, folder / name)
    for name in etc_directories():
        (folder / name).mkdir(parents=True, exist_ok=True)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def account_files(uid: int) -> tuple[tuple[str, str], ...]:
    """Return what stands for `passwd` and `group` where the uid inside is the kernel's own."""
    return (
        ("/etc/passwd", _PASSWD.format(user=USER, uid=uid, home=HOME)),
        ("/etc/group", _GROUP.format(user=USER, uid=uid)),
    )


def options(
    mounts: Mounts,
    *,
    env: Mapping[str, str],
    cwd: str,
    tmp_mb: int,
    own_network: bool,
    seccomp_fd: int | None,
    script_fd: int | None = None,
    files: Mapping[str, int] | None = None,
) -> list[str]:
    """Return every option of one instance, without the command.

    Args:
        mounts: Sources of what appears inside.
        env: The complete environment.
        cwd: Directory to start in, relative to the home unless absolute.
        tmp_mb: Size of `/tmp` and of `/dev/shm`.
        own_network: Make an empty network namespace; False when the caller has entered one.
        seccomp_fd: Descriptor of the filter.
        script_fd: Descriptor of the start script (see `command`).
        files: Path below the home -> descriptor of the text; None for no place for such files.
    """
    size = str(tmp_mb * _MIB)
    # fmt: off
    args = [
        "--unshare-user", "--uid", str(UID), "--gid", str(UID), "--unshare-ipc", "--unshare-pid",
        "--unshare-uts", "--unshare-cgroup-try", "--disable-userns", "--die-with-parent",
        "--new-session", "--cap-drop", "ALL", "--hostname", "mcp", "--clearenv",
        "--ro-bind", mounts.usr, "/usr",
        "--ro-bind", mounts.etc, "/etc",
        "--proc", "/proc", "--dev", "/dev",
        "--perms", "1777", "--size", size, "--tmpfs", "/tmp",  # noqa: S108  inside the sandbox
        "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm",  # noqa: S108
        "--dir", "/run", "--dir", "/var", "--symlink", "/tmp", "/var/tmp",  # noqa: S108
    ]
    # fmt: on
    if own_network:
        args.append("--unshare-net")
    if seccomp_fd is not None:
        args += ["--seccomp", str(seccomp_fd)]
    args += system_directories()
    for source, place in mounts.readable:
        args += ["--ro-bind", source, place]
    for source, place in mounts.own:
        args += ["--bind", source, place]
    args += ["--bind", mounts.home, HOME]
    if files is not None:  # no path of the tenant's: the links to them are the script's
        args += ["--perms", "0700", "--size", str(MOST_BYTES), "--tmpfs", PLACE]
        for below, fd in files.items():
            args += ["--perms", "0600", "--file", str(fd), f"{PLACE}/{below}"]
    if script_fd is not None:
        args += ["--perms", "0500", "--file", str(script_fd), _EXEC]
    args += ["--remount-ro", "/dev", "--remount-ro", "/"]
    inside = os.path.normpath(os.path.join(HOME, cwd))  # noqa: PTH118  normalises `..` too
    if inside != HOME and Path(inside).is_relative_to(HOME):
        args += ["--dir", inside]  # made by the tenant's own uid, never by the hub
    args += ["--chdir", inside]
    for name, value in env.items():
        args += ["--setenv", name, value]
    return args


def system_directories() -> list[str]:
    """Return `/bin`, `/lib`, … as this machine has them, and what `/etc` gets from it."""
    args: list[str] = []
    for name in SYSTEM:
        place = Path("/", name)
        if place.is_symlink():
            args += ["--symlink", f"usr/{name}", f"/{name}"]
        elif place.is_dir():
            args += ["--ro-bind", f"/{name}", f"/{name}"]
    for name in etc_directories():
        args += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return args


def pack(args: Sequence[str]) -> bytes:
    """Return options in the form that `--args FD` reads.

    Raises:
        InvalidInput: A value holds a NUL character.
    """
    refuse_nul(args)
    return os.fsencode("\0".join([*args, ""]))


def refuse_nul(values: Sequence[str]) -> None:
    """Refuse what no program can be given.

    Raises:
        InvalidInput: A value holds a NUL character.
    """
    if any("\0" in value for value in values):
        raise InvalidInput(
            "A value of the server's environment or arguments holds a NUL character.",
            hint="Set the credential again without it.",
        )


def command(
    argv: Sequence[str | Secret], *, most_processes: int | None, before: str = ""
) -> tuple[list[str], bytes | None]:
    """Return the command for bubblewrap and the start script that goes with it, if any.

    bubblewrap takes no command from `--args`, so a secret argument travels in a script that only
    the sandbox sees. Without a cgroup for processes the limit is set inside, where it counts for
    this user namespace alone. `before` are shell commands that come first, in the same script.
    """
    plain = [arg.reveal() if isinstance(arg, Secret) else arg for arg in argv]
    if most_processes is not None:
        plain = ["/usr/bin/prlimit", f"--nproc={most_processes}:{most_processes}", "--", *plain]
    if not before and not any(isinstance(arg, Secret) for arg in argv):
        return plain, None
    return ["/bin/sh", _EXEC], f"{before}exec {shlex.join(plain)}\n".encode()
