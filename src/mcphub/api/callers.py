"""Who calls an HTTP API of the hub: the API key says it, nothing else does."""

from collections.abc import Callable

from starlette.requests import Request

from mcphub.api.replies import read_body
from mcphub.errors import InvalidInput, Unauthenticated
from mcphub.policy.model import Principal

Authenticate = Callable[[str], Principal | None]


async def caller_and_body(
    request: Request, authenticate: Authenticate, limit: int
) -> tuple[Principal, bytes]:
    """Return who calls, as of when the body was there, and the body: a key may end while it arrives.

    Raises:
        InvalidInput, Unauthenticated: As `caller_of`; the body is larger than `limit` bytes.
    """
    caller_of(request, authenticate)  # nobody else's body is read
    body = await read_body(request, limit)
    return caller_of(request, authenticate), body


def caller_of(request: Request, authenticate: Authenticate) -> Principal:
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
