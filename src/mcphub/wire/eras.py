"""Between the eras: what a modern request says about itself, and how it looks to a legacy server.

Pure functions on raw members. Modern clients in front of legacy servers are served here (the hub
holds the legacy session); the other direction belongs to the same module. Source: MCP 2026-07-28
basic (`_meta`, errors), streamable-http (headers), caching; 2025-11-25.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from mcphub.wire import envelope
from mcphub.wire.codes import (
    HEADER_MISMATCH,
    HOP_META,
    INVALID_PARAMS,
    LEGACY_METHODS,
    LEGACY_RESOURCE_NOT_FOUND,
    META_CLIENT_CAPABILITIES,
    META_CLIENT_INFO,
    META_LOG_LEVEL,
    META_SERVER_INFO,
    META_VERSION,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    MODERN_VERSIONS,
    UNSUPPORTED_VERSION,
)
from mcphub.wire.envelope import Members

_CACHEABLE: Final = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
PARAMETER_HEADER: Final = "mcp-param-"
"""How the headers begin that repeat arguments of a tool (`wire.parameters`)."""
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


_ASKED: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling"}


def questions_for(capabilities: Members) -> frozenset[str]:
    """Return the methods that a client with these capabilities can be asked by a server."""
    return frozenset(method for method, name in _ASKED.items() if name in capabilities)


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


@dataclass(frozen=True, slots=True)
class ModernMeta:
    """What a modern request declares. Self-reported: never for identity or policy.

    Attributes:
        parameters: The request's headers that repeat arguments of a tool.
    """

    version: str
    client: str
    log_level: str
    progress_token: bytes
    capabilities: Members
    parameters: Mapping[str, str]


def meta_of(params: Members) -> Members:
    """Return the members of `_meta`, empty when there is none."""
    return envelope.object_of(params.get("_meta"))


def client_name(info: msgspec.Raw | None) -> str:
    """Return `name/version` of a clientInfo or serverInfo object, for records."""
    members = envelope.object_of(info)
    name, version = envelope.text(members.get("name")), envelope.text(members.get("version"))
    return f"{name}/{version}" if version else name


def read_modern(method: str, params: Members, headers: Mapping[str, str]) -> ModernMeta:
    """Check a modern request's `_meta` against its headers and return what it declares.

    Args:
        method: The JSON-RPC method.
        params: Its parameters, raw.
        headers: Lower-case header names; routing headers must not be repeated (the caller checks).

    Raises:
        Refused: -32602 for a missing member, -32022 for an unknown version, -32020 for a header
            that is missing or says something else than the body, -32601 for a method of the
            legacy era.
    """
    meta = meta_of(params)
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
    if bytes(meta.get(META_CLIENT_CAPABILITIES, b""))[:1] != b"{":
        raise Refused(INVALID_PARAMS, f"params._meta needs {META_CLIENT_CAPABILITIES}.")
    _check_header(headers, "mcp-method", method)
    if method in _NAMED:
        _check_header(headers, "mcp-name", envelope.text(params.get(_NAMED[method])))
    if method in LEGACY_METHODS:
        raise Refused(METHOD_NOT_FOUND, f"Protocol version {version} has no method {method}.")
    return ModernMeta(
        version=version,
        client=client_name(meta.get(META_CLIENT_INFO)),
        log_level=envelope.text(meta.get(META_LOG_LEVEL)),
        progress_token=bytes(meta.get("progressToken", b"")),
        capabilities=envelope.object_of(meta[META_CLIENT_CAPABILITIES]),
        parameters={
            name: value for name, value in headers.items() if name.startswith(PARAMETER_HEADER)
        },
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


def _check_header(headers: Mapping[str, str], name: str, expected: str) -> None:
    given = headers.get(name)
    if given is None:
        raise Refused(HEADER_MISMATCH, f"Header {name.title()} is missing.")
    if decode_header(given) != expected:
        raise Refused(HEADER_MISMATCH, f"Header {name.title()} and the body differ.")


def for_legacy_server(
    params: Members, *, progress_id: int | None, rename: tuple[str, str] | None = None
) -> bytes:
    """Return a request's params as a legacy server wants them, on one line.

    Hop-owned `_meta` keys go, unknown ones stay; the progress token becomes the hub's own number
    (rule R2); the caller's name for a tool or prompt becomes the server's.

    Args:
        params: Raw members; not changed.
        progress_id: Token to ask for progress with, or None for no progress.
        rename: Member and new value, e.g. ("name", "echo").
    """
    out = dict(params)
    if "_meta" in out or progress_id is not None:
        kept: Members = {
            key: value for key, value in meta_of(params).items() if key not in HOP_META
        }
        if progress_id is not None:
            kept["progressToken"] = msgspec.Raw(b"%d" % progress_id)
        if kept:
            out["_meta"] = msgspec.Raw(envelope.join(kept))
        else:
            out.pop("_meta", None)
    if rename is not None:
        out[rename[0]] = envelope.raw(rename[1])
    return envelope.join(out)


def result_for_modern(method: str, value: bytes | msgspec.Raw, server_info: bytes = b"") -> bytes:
    """Return a legacy server's result as a modern client wants it: what is missing is added."""
    members = envelope.object_of(value)
    if not members and bytes(value).strip() != b"{}":
        return bytes(value)
    added: Members = {}
    if "resultType" not in members:
        added["resultType"] = msgspec.Raw(b'"complete"')
    if method in _CACHEABLE:
        if "ttlMs" not in members:
            added["ttlMs"] = msgspec.Raw(b"0")
        if "cacheScope" not in members:
            added["cacheScope"] = msgspec.Raw(b'"private"')
    if server_info:
        meta = envelope.object_of(members.get("_meta"))
        meta.setdefault(META_SERVER_INFO, msgspec.Raw(server_info))
        members["_meta"] = msgspec.Raw(envelope.join(meta))
    return envelope.join(added | members)


def error_for_modern(raw_error: msgspec.Raw, refused: str = "") -> tuple[int, msgspec.Raw]:
    """Return the code and the raw error object as a modern client may see them (-32002 is legacy).

    Args:
        raw_error: As the legacy server gave it.
        refused: Method that the server wanted to ask the client in this call, when the client had
            not declared that it can be asked: the error then says what to declare.
    """
    members = envelope.object_of(raw_error)
    if refused in _ASKED:
        members["code"] = envelope.raw(MISSING_CAPABILITY)
        members["data"] = envelope.raw({"requiredCapabilities": {_ASKED[refused]: {}}})
        return MISSING_CAPABILITY, msgspec.Raw(envelope.join(members))
    try:
        code = int(bytes(members.get("code", b"-32603")))
    except ValueError:
        code = -32603
    if code == LEGACY_RESOURCE_NOT_FOUND:
        members["code"] = msgspec.Raw(b"%d" % INVALID_PARAMS)
        return INVALID_PARAMS, msgspec.Raw(envelope.join(members))
    return code, raw_error
