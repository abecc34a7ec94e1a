"""Errors by what the caller does next.

Each class has a stable string `code`, a `message` for the user and a `hint` with the next step.
Neither may hold a secret, a path of the hub or SQL: both travel to clients. The numbers that HTTP
and JSON-RPC want are in one table per face (`gateway.replies`, `api`), not here.
"""


class HubError(Exception):
    """Base of every error that MCPHub raises on purpose.

    Args:
        message: One sentence for the user.
        hint: The next step, as a sentence or a command.
        code: Stable identifier; the class's own code when not given.
    """

    code: str = "error"

    def __init__(self, message: str, *, hint: str = "", code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InvalidInput(HubError):
    """What was given cannot be used; giving something else helps."""

    code = "invalid_input"


class Unauthenticated(HubError):
    """Nobody is known to be calling; a valid credential helps."""

    code = "unauthenticated"


class Denied(HubError):
    """The caller is known and may not do this."""

    code = "denied"


class NotFound(HubError):
    """There is no such thing for this caller. Also used for what belongs to somebody else."""

    code = "not_found"


class Conflict(HubError):
    """The state changed or already holds the thing; look again, then retry."""

    code = "conflict"


class MissingCredential(Denied):
    """The user has not set a credential that the server needs."""

    code = "missing_credential"


class LimitExceeded(HubError):
    """A limit of the user or of the hub is reached; wait or do less."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class Unavailable(HubError):
    """A part of the hub cannot serve just now; the same call may work after `retry_after_s` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class UpstreamFailed(HubError):
    """The MCP server behind the hub crashed, hung or broke the protocol."""

    code = "upstream_failed"
