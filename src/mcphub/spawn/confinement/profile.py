"""What a sandbox is made of, as values; travels to the process that enters it as one line of JSON.

Not here: who decides these values (`spawn.confined`), how they are put in force (`entering`).
"""

import base64
import json
from dataclasses import dataclass, fields
from typing import Any, Final, Self

HOME: Final = "/home/u"
UID: Final = 1000
"""The uid inside a user namespace."""


@dataclass(frozen=True, slots=True)
class Bind:
    """Something of the host that appears inside.

    Attributes:
        source: Path on the host.
        place: Absolute path inside.
        writable: Else it and everything mounted below is read-only.
        own_inodes: Show it through a read-only overlay, so that file locks and inotify on it meet
            nobody else. Only for what is read-only.
    """

    source: str
    place: str
    writable: bool = False
    own_inodes: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """One sandbox.

    Attributes:
        namespaces: Make own namespaces and an own root; False where the kernel refuses: then only
            Landlock, the filter, limits and the uid are left, and paths are the host's.
        uid: Kernel uid and gid to become (the hub is root); None stays and needs a user namespace.
        binds: What appears inside, in this order; a home at `HOME` is one of them.
        texts: (place, text) of small files that appear over existing ones, after the binds.
        links: (place, target) of symbolic links in the root.
        network: Descriptor of a network namespace to enter; -1 makes an empty one.
        network_owner: Descriptor of the user namespace that owns it, for a hub without root.
        cgroups: Files to write `0` to, which joins control groups.
        tmp_bytes: Size of `/tmp` and of `/dev/shm`.
        memory_files: Make the place for files in memory (`laying`).
        files: Most open files of a process.
        file_bytes: Largest file; 0 sets none.
        processes: Most processes of the kernel uid; 0 sets none.
        seccomp: Filter, array of `struct sock_filter`; empty loads none.
        readable, writable: Places of the Landlock rules; both empty uses no Landlock.
    """

    namespaces: bool = True
    uid: int | None = None
    binds: tuple[Bind, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    network: int = -1
    network_owner: int = -1
    cgroups: tuple[str, ...] = ()
    tmp_bytes: int = 64 * 1024 * 1024
    memory_files: bool = False
    files: int = 1024
    file_bytes: int = 0
    processes: int = 0
    seccomp: bytes = b""
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Return it as values for `of`, all of them of JSON; holds no secret."""
        values = {name: getattr(self, name) for name in _names(type(self))}
        values["binds"] = [
            {name: getattr(bind, name) for name in _names(Bind)} for bind in self.binds
        ]
        values["seccomp"] = base64.b64encode(self.seccomp).decode()
        return values

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Return what `values` gave.

        Raises:
            ValueError, KeyError, TypeError: It is something else.
        """
        if values.keys() != set(_names(cls)):
            raise ValueError("not a profile of this version")
        made = dict(values)
        made["seccomp"] = base64.b64decode(made["seccomp"])
        made["binds"] = tuple(Bind(**bind) for bind in made["binds"])
        for name in ("texts", "links"):
            made[name] = tuple((first, second) for first, second in made[name])
        for name in ("cgroups", "readable", "writable"):
            made[name] = tuple(made[name])
        return cls(**made)

    def to_json(self) -> str:
        """Return it as text for `from_json`; holds no secret."""
        return json.dumps(self.values())

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return what `to_json` made. Raises as `of`."""
        return cls.of(json.loads(text))


def _names(kind: type[Profile] | type[Bind]) -> list[str]:
    return [field.name for field in fields(kind)]
