"""What a user may try in order to be known to an HTTP server: headers, signed claims, nothing.

The attempts are made with sentinels of each user in the form of the server's own credentials. Which
one a server takes, and what it does without any, is seen by the witness and by its refusals.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mcphub.isolation import credentials
from mcphub.isolation.canaries import mint
from mcphub.isolation.credentials import Credential

_SCOPE: Final = re.compile(r"[\w.-]+(?::[\w.*-]+)+")


@dataclass(frozen=True, slots=True)
class Identity:
    """How one user presents itself.

    Attributes:
        way: `none`, `header` or `signed`.
        headers: Of every request.
        sentinel: What is sought upstream.
    """

    way: str
    headers: Mapping[str, str] = field(default_factory=dict)
    sentinel: str = ""


def claims(name: str) -> dict[str, Any]:
    """Return what a caller may say of itself in `_meta`, without any proof."""
    person = {"id": name, "userId": name, "email": f"{name}@example.com", "tenantId": name}
    return {**person, "user_id": name, "tenant_id": name, "user": person}


def claim_headers(name: str) -> dict[str, str]:
    """Return headers in which a caller may say who it is, without any proof."""
    ids = dict.fromkeys(
        ("X-User-Id", "X-User", "X-Tenant-Id", "X-Forwarded-User", "X-Remote-User"), name
    )
    return {
        **ids,
        "X-User-Email": f"{name}@example.com",
        "X-Forwarded-Email": f"{name}@example.com",
    }


def attempts(
    user: str, name: str, known: Sequence[Credential], scopes: Sequence[str] = ()
) -> list[Identity]:
    """Return a user's attempts, the likeliest first; without identity last.

    Args:
        user: `A` or `B`.
        name: By which it claims to be known.
        known: Credentials of the launch line.
        scopes: What signed claims ask for.
    """
    sentinel = mint()
    given = [credential for credential in known if credential.given]
    prefix = given[0].prefix if given else ""
    token = f"{prefix}{sentinel}"
    headers = {
        "Authorization": f"Bearer {token}",
        "X-Api-Key": token,
        **claim_headers(name),
        **dict.fromkeys(credentials.header_names(given), token),
    }
    found = [
        Identity("header", headers, sentinel),
        Identity("header", {"Authorization": f"Bearer {token}"}, sentinel),
    ]
    for credential in credentials.signing(known):
        claimed = credentials.signed(credential.value, user, sentinel, scopes)
        found.append(Identity("signed", {"Authorization": f"Bearer {claimed}"}, sentinel))
    return [*found, Identity("none")]


def scopes_in(refusal: str) -> list[str]:
    """Return the scopes that a refusal says are missing."""
    return _SCOPE.findall(refusal) if re.search(r"scope|permission", refusal, re.IGNORECASE) else []
