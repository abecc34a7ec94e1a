"""The user of the running request: `current_user()`.

A `User` is made from verified claims only (or as the one local user that the author chose as a
fallback). It is bound to the request by a context variable, so it follows awaits, tasks and threads
that the request starts, and nothing else.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

from mcp.server.mcpserver.exceptions import ToolError

from mcphub_sdk.state import State

_current: ContextVar["User | None"] = ContextVar("mcphub_user", default=None)


class NoUser(ToolError):
    """The running request has no verified user. Its text, as that of every `ToolError`, reaches the caller."""

    def __init__(self) -> None:
        super().__init__(
            "This call needs a user, and the request carries no verified user context. "
            "Call this server through a hub that sends it."
        )


class PermissionMissing(ToolError):
    """The user lacks a permission or a group that the call needs."""


class CredentialMissing(ToolError):
    """The user's credential for a slot did not come with the request."""


@dataclass(frozen=True, slots=True, eq=False)
class User:
    """The verified user of one request.

    Attributes:
        id: Opaque and stable for this server; by default it differs from server to server. Not a
            name and not an address: never show it, never parse it.
        issuer: The hub that vouches for the user. Only (issuer, id) together is unique.
        groups, permissions: As the hub's administrator configured; empty otherwise.
        client: Name that the user's client gives itself; never decide by it.
        request_id: The hub's id of this request, for logs.
        state: What this server remembers of this user.
    """

    id: str
    issuer: str
    state: State
    groups: frozenset[str] = frozenset()
    permissions: frozenset[str] = frozenset()
    client: str = ""
    request_id: str = ""
    _credentials: Mapping[str, str] = field(default_factory=dict, repr=False)

    def credential(self, slot: str) -> str:
        """Return this user's credential for a slot, such as `GITHUB_TOKEN`.

        Raises:
            CredentialMissing: It did not come with the request.
        """
        value = self._credentials.get(slot)
        if value is None:
            raise CredentialMissing(
                f"You have not set {slot} for this server. Set it at the hub: "
                f"mcphub credential set SERVER {slot}"
            )
        return value

    def has(self, *permissions: str) -> bool:
        """Whether the user has all of these permissions."""
        return self.permissions.issuperset(permissions)

    def require(self, *permissions: str) -> None:
        """Go on only with all of these permissions.

        Raises:
            PermissionMissing: The user lacks one; names it.
        """
        missing = sorted(set(permissions) - self.permissions)
        if missing:
            raise PermissionMissing(f"You lack the permission {missing[0]} for this.")


LOCAL_ISSUER: Final = "urn:mcphub-sdk:local"
LOCAL_ID: Final = "local"


def current_user() -> User:
    """Return the user of the running request.

    Raises:
        NoUser: There is none: no hub, or a list that is nobody's.
    """
    user = _current.get()
    if user is None:
        raise NoUser
    return user


def current_user_or_none() -> User | None:
    """Return the user of the running request, or None."""
    return _current.get()


@contextmanager
def acting(user: User | None) -> Generator[None]:
    """Let a user be the current one for the time of the block. For the adapters of this package."""
    token = _current.set(user)
    try:
        yield
    finally:
        _current.reset(token)
