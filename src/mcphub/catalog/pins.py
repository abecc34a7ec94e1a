"""`Pin`: the exact package that a server runs, as an administrator agreed to it (rule R22)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pin:
    """One resolved package: exact version and the hash of what the registry gave for it.

    Attributes:
        ecosystem: `npm` or `pypi`.
        name: Name of the package in its registry.
        version: Exact version.
        integrity: npm: `sha512-…`; PyPI: `sha256:…` of each file of that version, separated by spaces.
        extras: Further requirements that are installed beside it, as written in the settings.
        resolved_at: When it was resolved, seconds since the epoch.
    """

    ecosystem: str
    name: str
    version: str
    integrity: str
    extras: tuple[str, ...]
    resolved_at: float
