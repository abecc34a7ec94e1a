"""Finds which modules of a server may be imported in a zygote; runs in a sandbox, once per package.

`discover` runs the server itself and notes what it imports and what happens during each import;
`verify` imports a list of modules as a zygote would and notes the same. A module is unfit when its
import, or one that it causes, reads the environment as a whole, looks into the home or writes a file,
starts a process or a thread, calls a network, or leaves a descriptor open: that would be another
thing in every instance. Names of single variables that were read are told, because a server that
sets one of them must not be forked. What compiled code reads by itself is not seen. Standard library
only; no barrier against malice, which is the business of the sandbox around it and around the zygote.
"""

import contextlib
import importlib
import importlib.machinery
import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib import _bootstrap_external  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any, Final

RESULT: Final = "audit.json"
_PRIVATE: Final = ("/home/", "/tmp", "/dev/shm", "/var/tmp")  # noqa: S108  compared, not used
_PROCESSES: Final = frozenset(
    {"subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"}
    | {"os.system", "pty.spawn"}
)
_NETWORK: Final = frozenset(
    {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
)
_FILES: Final = frozenset(
    {"open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
    | {"os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown", "tempfile.mkstemp"}
    | {"tempfile.mkdtemp", "sqlite3.connect"}
)
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class _Watch:
    """What happened during imports. Everything is charged to each module that was being imported."""

    def __init__(self) -> None:
        self.stack: list[str] = []
        self.unfit: dict[str, str] = {}
        self.read: set[str] = set()
        self.order: list[str] = []
        # the package itself may lie below a directory that also has private ones
        self._own = tuple(entry for entry in (sys.prefix, sys.base_prefix, *sys.path) if entry)

    def charge(self, why: str) -> None:
        for name in self.stack:
            self.unfit.setdefault(name, why)

    def reads(self, name: object) -> None:
        if self.stack:
            self.read.add(str(name))

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.stack:
            return
        if event in _PROCESSES:
            self.charge("starts a process")
        elif event in _NETWORK:
            self.charge("calls a network")
        elif event in _FILES:
            self._file(event, args)

    def _file(self, event: str, args: tuple[Any, ...]) -> None:
        path = args[0] if args else ""
        text = os.fsdecode(path) if isinstance(path, str | bytes) else ""
        if event == "open":
            flags = args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            if flags & _WRITING and text != "/dev/null":
                self.charge("writes a file")
        elif event not in {"os.listdir", "os.scandir"}:
            self.charge("writes a file")
        if text.startswith(_PRIVATE) and not text.startswith(self._own):
            self.charge("looks into the home")

    @contextlib.contextmanager
    def importing(self, name: str) -> Iterator[None]:
        before = _open_descriptors()
        self.order.append(name)
        self.stack.append(name)
        try:
            yield
            if len(os.listdir("/proc/self/task")) > 1:
                self.charge("starts a thread")
            if _open_descriptors() - before:
                self.charge("leaves a descriptor open")
        finally:
            self.stack.pop()


def _open_descriptors() -> set[int]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


class _Environment(type(os.environ)):  # type: ignore[misc]
    """`os.environ` that tells what is read."""

    watch: _Watch

    def __getitem__(self, key: str) -> str:
        self.watch.reads(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.watch.reads(key)
        try:
            super().__getitem__(key)  # type: ignore[index]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        self.watch.charge("reads the whole environment")
        return super().__iter__()

    def __setitem__(self, key: str, value: str) -> None:
        self.watch.charge("changes the environment")
        super().__setitem__(key, value)

    def copy(self) -> dict[str, str]:
        self.watch.charge("reads the whole environment")
        return super().copy()


def _watched() -> _Watch:
    watch = _Watch()

    def wrapped(original: Callable[..., None]) -> Callable[..., None]:
        def exec_module(self: object, module: Any) -> None:
            with watch.importing(module.__name__):
                original(self, module)

        return exec_module

    for loader in (
        _bootstrap_external._LoaderBasics,  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
        importlib.machinery.ExtensionFileLoader,
    ):
        loader.exec_module = wrapped(loader.exec_module)
    environ = os.environ
    environ.__class__ = _Environment
    environ.watch = watch  # type: ignore[attr-defined]
    sys.addaudithook(watch.hook)
    return watch


def discover(words: list[str]) -> None:
    """Run a script with its arguments to its end, then write what its imports did."""
    sys.argv = words
    sys.path.insert(0, os.path.dirname(words[0]))
    watch = _watched()
    try:
        with contextlib.suppress(SystemExit):
            runpy.run_path(words[0], run_name="__main__")
    finally:
        _write(watch)


def verify(modules: list[str]) -> None:
    """Import modules in order, then write what that did."""
    watch = _watched()
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  foreign code
            watch.unfit.setdefault(name, f"fails: {type(error).__name__}")
    _write(watch)


def _write(watch: _Watch) -> None:
    watch.stack.clear()
    known = [name for name in watch.order if name in sys.modules or name in watch.unfit]
    result = {"modules": known, "unfit": watch.unfit, "read": sorted(watch.read)}
    home = os.path.expanduser("~")
    with open(os.path.join(home, RESULT), "w") as file:
        json.dump(result, file)
