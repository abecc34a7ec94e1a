"""`Secret`: a credential's value in memory that cannot be printed, compared by accident or pickled."""

import hmac
from typing import Final, NoReturn

OAUTH_SLOT: Final = "OAUTH"
"""The credential slot that nobody fills by hand: a user's authorization at an OAuth server."""


class Secret:
    """Holds one secret text. `repr`, `str`, `format` and logging show `Secret(…)` only.

    Take the value with `reveal()` at the last moment: when a child's environment or a header is made.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value. Every call site is a place to review."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(
            self._value.encode(), other._value.encode()
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is never serialised")
