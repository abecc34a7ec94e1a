"""Code of modules that each instance imports by itself: read once by the zygote, and not run there.

To find, read and unmarshal a module's code is half of the price of its import, and the same for every
user whatever the module does when it runs. In a child the import system looks for a module as ever; only
where it finds the same file, the code that was read is used. Standard library only.
"""

import contextlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class Reader:
    """A finder for `sys.meta_path` that knows code."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, CodeType]] = {}
        self._places: dict[str, Sequence[str] | None] = {}

    def read(self, name: str) -> None:
        """Read a module's code, after that of the packages that it is in; what cannot be read is left."""
        spec = self._found(name)
        if spec is None:
            return
        self._places[name] = spec.submodule_search_locations
        loader = spec.loader
        if type(loader) is SourceFileLoader:
            with contextlib.suppress(Exception):  # foreign files: the import will tell
                code = loader.get_code(name)
                if code is not None:
                    self._known[name] = (spec.origin, code)

    def install(self) -> None:
        """Be asked before the finder that looks into the directories."""
        if self._known:
            sys.meta_path.insert(sys.meta_path.index(PathFinder), self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find what the next finder finds, with its code if that is known."""
        origin, code = self._known.get(name, (None, None))
        if code is None:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin == origin and type(spec.loader) is SourceFileLoader:
            spec.loader.get_code = lambda _: code  # type: ignore[method-assign]
        return spec

    def _found(self, name: str) -> ModuleSpec | None:
        """Find a module without an import of the packages that it is in."""
        parent = name.rpartition(".")[0]
        places: Sequence[str] | None = None
        if parent:
            places = self._places.get(parent) or getattr(sys.modules.get(parent), "__path__", None)
            if places is None:
                return None
        with contextlib.suppress(Exception):
            return PathFinder.find_spec(name, places)
        return None
