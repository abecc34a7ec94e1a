"""The canonical form of JSON values (RFC 8785), which user contexts are bound to (`wire.digest`).

Numbers are IEEE 754 doubles, as RFC 8785 wants: an integer beyond 2**53 counts as its nearest double,
so that a server in any language gets the same digest from what it parsed. The SDK of user-aware
servers has its own copy, since neither needs the other; both are held to the same vectors.
Specification: docs/reference/user-context.md.
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

_EXACT: Final = 2**53


class NotCanonical(ValueError):
    """The value has no canonical form: a number that is no double, a lone surrogate, too deep."""


def canonical(value: object) -> bytes:
    """Return the canonical JSON text of a parsed JSON value.

    Raises:
        NotCanonical: It has none.
    """
    parts: list[str] = []
    try:
        _write(value, parts)
        return "".join(parts).encode("utf-8")
    except (RecursionError, UnicodeEncodeError, OverflowError):
        raise NotCanonical("The value has no canonical JSON form.") from None


def _write(value: object, parts: list[str]) -> None:
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
        for number, name in enumerate(sorted(value, key=utf16)):
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


def utf16(name: object) -> bytes:
    """Return by what names are sorted.

    Raises:
        NotCanonical: It is no name, or none of Unicode.
    """
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
