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
        constraints: What its dependencies were held to when they were resolved, e.g. `mcp<2`;
            `python=3.13` where the hub chose the interpreter.
    """

    ecosystem: str
    name: str
    version: str
    integrity: str
    extras: tuple[str, ...]
    resolved_at: float
    constraints: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The version, and what its dependencies were held to, for people."""
        held = f", held to {' '.join(self.constraints)}" if self.constraints else ""
        return f"{self.version}{held}"
