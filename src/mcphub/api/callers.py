"""Who calls an HTTP API of the hub: the API key says it, nothing else does."""

from collections.abc import Callable

from starlette.requests import Request

from mcphub.errors import InvalidInput, Unauthenticated
from mcphub.policy.model import Principal


def caller_of(request: Request, authenticate: Callable[[str], Principal | None]) -> Principal:
    """Return who calls. One header decides; two of them are refused (rule R6).

    Raises:
        InvalidInput: There are two.
        Unauthenticated: There is none, or no valid key in it.
    """
    given = request.headers.getlist("authorization")
    if len(given) > 1:
        raise InvalidInput("There is more than one Authorization header.", hint="Send one.")
    scheme, _, key = (given[0] if given else "").partition(" ")
    principal = authenticate(key.strip()) if scheme.lower() == "bearer" else None
    if principal is None:
        raise Unauthenticated(
            "A valid API key is needed.",
            hint="Send `Authorization: Bearer mcphub_…`; an administrator makes a key with "
            "`mcphub key create USER`.",
        )
    return principal
