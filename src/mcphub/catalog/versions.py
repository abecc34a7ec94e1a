"""The exact version of what a spec runs: what evidence speaks of and what a catalog is kept for."""

import hashlib

from mcphub.catalog.launchers import requirement
from mcphub.catalog.pins import Pin
from mcphub.catalog.spec import ServerSpec
from mcphub.errors import InvalidInput


def kept_as(spec: ServerSpec, version: str) -> str:
    """Return what a server's catalog and dialect are kept under: its exact version and its settings."""
    return f"{version}+{spec.revision[:16]}"


def exact_version(spec: ServerSpec, pin: Pin | None) -> str:
    """Return the pinned package's version, a digest of any other command, or "" while unknown.

    A digest says which command line is run, not which bytes: a program outside the package store
    may change under it.
    """
    try:
        wanted = requirement(spec.command, spec.args) if spec.command else None
    except InvalidInput:
        return ""
    if wanted is not None:
        matches = pin is not None and (pin.ecosystem, pin.name) == (wanted.ecosystem, wanted.name)
        return pin.version if pin is not None and matches else ""
    parts = (spec.command, *spec.args, spec.url)
    return f"command-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
