"""The canonical form of JSON values (RFC 8785) and the digest that binds a user context to a request.

Numbers are IEEE 754 doubles, as RFC 8785 wants: an integer beyond 2**53 counts as its nearest double,
so that a server in any language gets the same digest from what it parsed. The SDK of user-aware
servers has its own copy, since neither needs the other; both are held to the same vectors.
Specification: docs/reference/user-context.md.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from mcphub.wire.envelope import Members

NOT_COVERED: Final = frozenset({"_meta", "requestState"})
"""Members of `params` outside of the digest: what belongs to the hop, and what the server sealed itself."""
_EXACT: Final = 2**53
MOST: Final = 100_000
"""Values, and names of members, of one request."""


class NotCanonical(ValueError):
    """The value has no canonical form: a number that is no double, a lone surrogate, too deep."""


class TooManyValues(NotCanonical):
    """There are more than `MOST` values: writing them takes a microsecond each, in which nobody is served."""


def canonical(value: object) -> bytes:
    """Return the canonical JSON text of a parsed JSON value.

    Raises:
        NotCanonical: It has none, or is too long (`TooManyValues`).
    """
    parts: list[str] = []
    try:
        _write(value, parts)
        return "".join(parts).encode("utf-8")
    except (RecursionError, UnicodeEncodeError, OverflowError):
        raise NotCanonical("The value has no canonical JSON form.") from None


def request_digest(method: str, params: Members) -> str:
    """Return the digest of a request: base64url of SHA-256 over its canonical method and params.

    Args:
        method: JSON-RPC method.
        params: Raw members, as the server gets them.

    Raises:
        NotCanonical: The params have no canonical form.
    """
    known = {name: bytes(raw) for name, raw in params.items()}
    for raw in known.values():
        # reading a name costs more than all else; in a text its quote is escaped
        if len(raw) > MOST and raw.count(b'":') - raw.count(b'\\":') > MOST:
            raise TooManyValues
    try:
        covered = {
            name: msgspec.json.decode(raw) for name, raw in known.items() if name not in NOT_COVERED
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotCanonical("The params have no canonical JSON form.") from None
    hashed = hashlib.sha256(canonical({"method": method, "params": covered}))
    return base64.urlsafe_b64encode(hashed.digest()).rstrip(b"=").decode()


def _write(value: object, parts: list[str]) -> None:
    _refuse_too_many(value, len(parts))
    if value is None or isinstance(value, bool):
        parts.append("null" if value is None else "true" if value else "false")
    elif isinstance(value, str):
        parts.append(json.dumps(value, ensure_ascii=False))
    elif isinstance(value, int):
        parts.append(str(value) if abs(value) <= _EXACT else _double(float(value)))
    elif isinstance(value, float):
        parts.append(_double(value))
    elif isinstance(value, Mapping):
        parts.append("{")
        for number, name in enumerate(sorted(value, key=_utf16)):
            parts.append(("," if number else "") + json.dumps(name, ensure_ascii=False) + ":")
            _write(value[name], parts)
        parts.append("}")
    elif isinstance(value, list | tuple):
        parts.append("[")
        for number, item in enumerate(value):
            if number:
                parts.append(",")
            _write(item, parts)
        parts.append("]")
    else:
        raise NotCanonical(f"A {type(value).__name__} is no JSON value.")


def _refuse_too_many(value: object, written: int) -> None:
    more = len(value) if isinstance(value, Mapping | list) else 0
    if written / 2 + more > MOST:  # half of what is written stands between others
        raise TooManyValues


def _utf16(name: object) -> bytes:
    if not isinstance(name, str):
        raise NotCanonical("A member's name is text.")
    return name.encode("utf-16-be")


def _double(value: float) -> str:
    """Return a double as ECMAScript writes it (ECMA-262 §6.1.6.1.20 Number::toString)."""
    if not math.isfinite(value):
        raise NotCanonical("A number is no finite double.")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    found = Decimal(repr(abs(value))).as_tuple()
    digits = "".join(map(str, found.digits)).lstrip("0")
    point = len(digits) + int(found.exponent)  # digits stand before the decimal point up to here
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return sign + "0." + "0" * -point + digits
    mantissa = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{mantissa}e{'+' if point > 0 else '-'}{abs(point - 1)}"
