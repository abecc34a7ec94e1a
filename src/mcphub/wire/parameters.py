"""Tool arguments that a modern client repeats in `Mcp-Param-*` headers, and whether it did so truly.

A tool's schema says which (`x-mcp-header`). Proxies on the way decide by the header, the server by
the body: where the two differ the call is refused. Pure functions on raw members. Source: MCP
2026-07-28 server/tools §x-mcp-header, streamable-http §Server Validation.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

from mcphub.wire import envelope
from mcphub.wire.codes import HEADER_MISMATCH
from mcphub.wire.envelope import Members
from mcphub.wire.eras import PARAMETER_HEADER, Refused, decode_header, encode_header

_ANNOTATION: Final = "x-mcp-header"
_MARK: Final = _ANNOTATION.encode()
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,64}(\.[0-9]{1,64})?([eE][+-]?[0-9]{1,2})?")
_KINDS: Final = frozenset({"string", "integer", "boolean"})
_MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One argument that has a header.

    Attributes:
        path: Names of members, from the arguments inwards.
        header: Lower-case name of the header.
    """

    path: tuple[str, ...]
    header: str


class _Unusable(Exception):
    """The annotations break the rules; clients leave the tool out, so there is nothing to check."""


def mirrored(tool: bytes | msgspec.Raw) -> tuple[Mirrored, ...]:
    """Return the arguments of a tool that have a header; none when its annotations break the rules."""
    if _MARK not in bytes(tool):
        return ()
    found: list[Mirrored] = []
    try:
        _collect(envelope.object_of(envelope.object_of(tool).get("inputSchema")), (), found)
    except _Unusable:
        return ()
    return tuple(found) if len({one.header for one in found}) == len(found) else ()


def usable(tool: bytes | msgspec.Raw) -> bool:
    """Whether a tool's annotations keep the rules; clients leave others out (MCP server/tools)."""
    if _MARK not in bytes(tool):
        return True
    found: list[Mirrored] = []
    try:
        _collect(envelope.object_of(envelope.object_of(tool).get("inputSchema")), (), found)
    except _Unusable:
        return False
    return len({one.header for one in found}) == len(found)


def check(expected: tuple[Mirrored, ...], arguments: Members, headers: Mapping[str, str]) -> None:
    """Compare arguments with their headers; other headers are nobody's business here.

    Raises:
        Refused: -32020: one is missing, superfluous, not decodable or says something else.
    """
    for one in expected:
        value, given = _value(arguments, one.path), headers.get(one.header)
        if given is None and value is None:
            continue
        name = one.header.title()
        if given is None:
            raise Refused(HEADER_MISMATCH, f"Header {name} is missing.")
        if value is None or not _same(value, decode_header(given)):
            raise Refused(HEADER_MISMATCH, f"Header {name} and the body differ.")


def headers_of(expected: tuple[Mirrored, ...], arguments: Members) -> dict[str, str]:
    """Return the headers that repeat these arguments, for a server of the modern era."""
    found: dict[str, str] = {}
    for one in expected:
        value = _value(arguments, one.path)
        if value is not None:
            text = envelope.text(value) if value[:1] == b'"' else value.decode()
            found[one.header] = encode_header(text)
    return found


def _collect(schema: Members, path: tuple[str, ...], found: list[Mirrored]) -> None:
    if len(path) >= _MAX_DEPTH:
        raise _Unusable
    for name, raw in envelope.object_of(schema.get("properties")).items():
        if _MARK not in bytes(raw):
            continue
        inner = envelope.object_of(raw)
        if _ANNOTATION in inner:
            suffix = envelope.text(inner[_ANNOTATION])
            if not _TOKEN.fullmatch(suffix) or envelope.text(inner.get("type")) not in _KINDS:
                raise _Unusable
            found.append(Mirrored((*path, name), PARAMETER_HEADER + suffix.lower()))
        _collect(inner, (*path, name), found)


def _value(arguments: Members, path: tuple[str, ...]) -> bytes | None:
    """Return the raw value at a path; None when it is absent or null."""
    members = arguments
    for name in path[:-1]:
        members = envelope.object_of(members.get(name))
    value = members.get(path[-1])
    return None if value is None or bytes(value) == b"null" else bytes(value)


def _same(value: bytes, given: str) -> bool:
    """Whether a raw value is what a header says: numbers by value, all else by text."""
    if value[:1] == b'"':
        return envelope.text(value) == given
    if value in {b"true", b"false"}:
        return value.decode() == given
    text = value.decode()
    if _NUMBER.fullmatch(text) and _NUMBER.fullmatch(given):
        return Decimal(text) == Decimal(given)
    return False
