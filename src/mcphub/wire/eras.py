"""What a request says about its client: the modern `_meta` and headers, capabilities of either era.

Pure functions on raw members. Not here: how a message of one era looks in the other
(`wire.translate`). Source: MCP 2026-07-28 basic (`_meta`, errors), streamable-http (headers).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from mcphub.wire import envelope
from mcphub.wire.codes import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    LEGACY_METHODS,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_VERSION,
    METHOD_NOT_FOUND,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
)
from mcphub.wire.envelope import Members
from mcphub.wire.pieces import Raw

PARAMETER_HEADER: Final = "mcp-param-"
"""How the headers begin that repeat arguments of a tool (`wire.parameters`)."""
NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods with an `Mcp-Name` header, and the member of the parameters that it repeats."""

ELICIT: Final = "elicitation/create"
ELICIT_URL: Final = "elicitation/create url"
SAMPLE: Final = "sampling/createMessage"
SAMPLE_TOOLS: Final = "sampling/createMessage tools"
ROOTS: Final = "roots/list"
NEEDS: Final[Mapping[str, Mapping[str, object]]] = {
    ELICIT: {"elicitation": {"form": {}}},
    ELICIT_URL: {"elicitation": {"url": {}}},
    SAMPLE: {"sampling": {}},
    SAMPLE_TOOLS: {"sampling": {"tools": {}}},
    ROOTS: {"roots": {}},
}
"""What a server may ask of a client -> the capabilities that the client must have declared."""

_TOOLS: Final = frozenset({"tools", "toolChoice"})
_MAX_REMEMBERED: Final = 4096
_NOTHING: Final[frozenset[str]] = frozenset()


def questions_for(capabilities: Members) -> frozenset[str]:
    """Return what a client with these capabilities can be asked by a server: keys of `NEEDS`."""
    if not capabilities:
        return _NOTHING
    found: set[str] = set()
    if "elicitation" in capabilities:
        modes = envelope.object_of(capabilities["elicitation"])
        if "url" in modes:
            found.add(ELICIT_URL)
        if "form" in modes or "url" not in modes:
            found.add(ELICIT)
    if "sampling" in capabilities:
        found.add(SAMPLE)
        if "tools" in envelope.object_of(capabilities["sampling"]):
            found.add(SAMPLE_TOOLS)
    if "roots" in capabilities:
        found.add(ROOTS)
    return frozenset(found)


def asked_by(method: str, params: bytes | Raw | None) -> str:
    """Return what a server's question needs of its client: a key of `NEEDS`, or the method itself."""
    if method == ELICIT and envelope.text(envelope.object_of(params).get("mode")) == "url":
        return ELICIT_URL
    if method == SAMPLE and not _TOOLS.isdisjoint(envelope.object_of(params)):
        return SAMPLE_TOOLS
    return method


class Refused(Exception):
    """A modern request that breaks the rules of its era.

    Attributes:
        code: JSON-RPC error code.
        data: The error's `data`, or None.
    """

    def __init__(self, code: int, reason: str, data: object = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.data = data


class Declared(NamedTuple):
    """What a modern client says about itself in each of its requests: mostly the same as before.

    Attributes:
        client: `name/version`, for records.
        capabilities: Raw members; shared between requests, never changed.
        asks: What it can be asked: keys of `NEEDS`.
    """

    client: str
    capabilities: Members
    asks: frozenset[str]


@dataclass(slots=True)
class ModernMeta:
    """What a modern request declares. Self-reported: never for identity or policy.

    Attributes:
        headers: Of its HTTP request; never shown, a key is among them.
    """

    version: str
    log_level: str
    progress_token: bytes
    declared: Declared
    headers: Mapping[str, str] = field(repr=False)

    @property
    def client(self) -> str:
        """`name/version`, for records."""
        return self.declared.client

    @property
    def capabilities(self) -> Members:
        """What the client can."""
        return self.declared.capabilities

    @property
    def parameters(self) -> Mapping[str, str]:
        """The request's headers that repeat arguments of a tool."""
        return {
            name: value for name, value in self.headers.items() if name.startswith(PARAMETER_HEADER)
        }


def declared(info: bytes, capabilities: bytes) -> Declared:
    """Return what raw clientInfo and clientCapabilities say; the usual ones are remembered."""
    if len(info) + len(capabilities) > _MAX_REMEMBERED:
        return _declared.__wrapped__(info, capabilities)
    return _declared(info, capabilities)


@lru_cache(maxsize=512)
def _declared(info: bytes, capabilities: bytes) -> Declared:
    members = envelope.object_of(capabilities)
    return Declared(client_name(info), members, questions_for(members))


def client_name(info: bytes | Raw | None) -> str:
    """Return `name/version` of a clientInfo or serverInfo object, for records."""
    members = envelope.object_of(info)
    name, version = envelope.text(members.get("name")), envelope.text(members.get("version"))
    return f"{name}/{version}" if version else name


def read_modern(
    method: str, params: Members, meta: Members, headers: Mapping[str, str]
) -> ModernMeta:
    """Check a modern request's `_meta` against its headers and return what it declares.

    Args:
        method: The JSON-RPC method.
        params: Its parameters, raw.
        meta: Their `_meta`.
        headers: Lower-case header names; routing headers must not be repeated (the caller checks).

    Raises:
        Refused: -32602 for a missing member, -32022 for an unknown version, -32020 for a header
            that is missing or says something else than the body, -32601 for a method of the
            legacy era.
    """
    version = envelope.text(meta.get(META_VERSION))
    header_version = headers.get("mcp-protocol-version", "")
    if version and header_version != version:
        raise Refused(
            HEADER_MISMATCH, f"Header MCP-Protocol-Version must be {version}, as in _meta."
        )
    if not version:
        raise Refused(INVALID_PARAMS, f"params._meta needs {META_VERSION}.")
    if version not in MODERN_VERSIONS:
        raise Refused(
            UNSUPPORTED_VERSION,
            f"Protocol version {version[:40]} is not supported.",
            {"supported": list(MODERN_VERSIONS), "requested": version[:40]},
        )
    capabilities = bytes(meta.get(META_CLIENT_CAPABILITIES, b""))
    if capabilities[:1] != b"{":
        raise Refused(INVALID_PARAMS, f"params._meta needs {META_CLIENT_CAPABILITIES}.")
    _check_header(headers, "mcp-method", method)
    if method in NAMED:
        _check_header(headers, "mcp-name", envelope.text(params.get(NAMED[method])))
    if method in LEGACY_METHODS:
        raise Refused(METHOD_NOT_FOUND, f"Protocol version {version} has no method {method}.")
    return ModernMeta(
        version,
        envelope.text(meta.get(META_LOG_LEVEL)),
        bytes(meta.get("progressToken", b"")),
        declared(bytes(meta.get(META_CLIENT_INFO, b"")), capabilities),
        headers,
    )


def decode_header(value: str) -> str:
    """Return a header value with the `=?base64?…?=` form undone (streamable-http §Value Encoding).

    Raises:
        Refused: The form is used and its content is not base64 of UTF-8.
    """
    if value.startswith("=?base64?") and value.endswith("?="):
        try:
            return base64.b64decode(value[9:-2], validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            raise Refused(HEADER_MISMATCH, "A header holds invalid base64.") from None
    return value


def encode_header(value: str) -> str:
    """Return a value as it may stand in a header; anything unusual in the `=?base64?…?=` form."""
    usual = value.isascii() and value.isprintable() and value == value.strip()
    if usual and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def _check_header(headers: Mapping[str, str], name: str, expected: str) -> None:
    given = headers.get(name)
    if given is None:
        raise Refused(HEADER_MISMATCH, f"Header {name.title()} is missing.")
    if decode_header(given) != expected:
        raise Refused(HEADER_MISMATCH, f"Header {name.title()} and the body differ.")
