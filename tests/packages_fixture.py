"""`package_store`: one package store for the whole test run and for later runs.

`tests/e2e/conftest.py` offers it; elsewhere, import it in the directory's `conftest.py`.
It lies under `.cache/`,
so that a package is downloaded once per checkout; the store's own file locks make it safe for
parallel test processes. `install` also remembers pins there, so that nothing asks a registry twice.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest

from mcphub.catalog.native import RunBuild
from mcphub.catalog.packages import Installed, PackageStore
from mcphub.catalog.pins import Pin
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import InvalidInput

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "test-packages"


def store_at(root: Path, runs: RunBuild | None = None) -> PackageStore:
    """Return a store at `root` with this machine's tools and registry settings."""
    return PackageStore(root, find_toolchain(os.environ["PATH"]), os.environ, runs=runs)


@pytest.fixture(scope="session")
def package_store() -> PackageStore:
    """Return the shared store."""
    return store_at(CACHE)


async def pin_of(store: PackageStore, command: str, *args: str) -> Pin:
    """Resolve a launcher line that names an exact version; the answer is remembered."""
    requirement = store.requirement(command, args)
    assert requirement is not None
    digest = hashlib.sha256(repr(dataclasses.replace(requirement, args=())).encode()).hexdigest()
    known = CACHE / "pins" / f"{digest[:16]}.json"
    if known.exists():
        values = json.loads(known.read_text())
        tuples = {name: tuple(values.get(name, ())) for name in ("extras", "constraints")}
        return Pin(**{**values, **tuples})
    pin = await store.resolve(requirement)
    known.parent.mkdir(parents=True, exist_ok=True)
    fresh = known.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(dataclasses.asdict(pin)))
    fresh.replace(known)
    return pin


async def library(store: PackageStore, package: str) -> Path:
    """Install an npm package that has no program of its own; returns the directory to load it from."""
    pin = await pin_of(store, "npx", "-y", package)
    with contextlib.suppress(InvalidInput):
        await store.install(pin)
    found = store._place(pin)
    assert (found / "node_modules").is_dir()
    return found


async def install(store: PackageStore, command: str, *args: str) -> Installed:
    """Install what a launcher line names, and return how it is run; its own arguments included."""
    requirement = store.requirement(command, args)
    assert requirement is not None
    found = await store.install(await pin_of(store, command, *args), requirement)
    return dataclasses.replace(found, argv=found.argv + requirement.args)
