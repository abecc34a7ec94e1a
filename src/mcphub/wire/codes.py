"""Names and numbers of the protocol, in one place.

Sources: MCP 2025-11-25 and 2026-07-28 (basic, streamable-http, error codes), JSON-RPC 2.0.
"""

from enum import StrEnum
from typing import Final


class Era(StrEnum):
    """Which of the two incompatible families of protocol revisions a message belongs to."""

    LEGACY = "legacy"
    MODERN = "modern"


class Dialect(StrEnum):
    """How a server is spoken to: in which era, and over which of the two HTTP transports."""

    MODERN = "modern"
    LEGACY = "legacy"
    SSE = "sse"  # legacy, over HTTP with SSE (2024-11-05)


MODERN_VERSIONS: Final = ("2026-07-28",)
LATEST_MODERN: Final = MODERN_VERSIONS[0]
LEGACY_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
LATEST_LEGACY: Final = LEGACY_VERSIONS[0]
BATCH_VERSION: Final = "2025-03-26"
"""The only revision in which a POST may hold a batch."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
LEGACY_RESOURCE_NOT_FOUND: Final = -32002
LEGACY_URL_ELICITATION_REQUIRED: Final = -32042

# The hub's own numbers lie outside -32768…-32000, which JSON-RPC and MCP keep for themselves.
HUB_DENIED: Final = 4030
HUB_CONFLICT: Final = 4090
HUB_LIMIT: Final = 4290
HUB_UPSTREAM_FAILED: Final = 5020
HUB_UNAVAILABLE: Final = 5030
HUB_TIMEOUT: Final = 5040

MODERN_HTTP_STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}
"""HTTP status of a modern JSON-RPC error; every other code is 200."""

CANCELLED: Final = "notifications/cancelled"
DISCOVER: Final = "server/discover"
"""The opening of the modern era."""

LEGACY_METHODS: Final = frozenset(
    {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}
)
"""Methods that the modern era has not (MCP 2026-07-28 changelog)."""

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CLIENT_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT_INFO: Final = "io.modelcontextprotocol/clientInfo"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
MODERN_ERRORS: Final = frozenset({HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
"""Codes that only a server of the modern era answers with."""

META_SERVER_INFO: Final = "io.modelcontextprotocol/serverInfo"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
META_USER_CONTEXT: Final = "dev.mcphub/user-context"

HOP_META: Final = frozenset(
    {
        META_VERSION,
        META_CLIENT_CAPABILITIES,
        META_CLIENT_INFO,
        META_LOG_LEVEL,
        META_USER_CONTEXT,
        "progressToken",
    }
)
"""Keys of a request's `_meta` that belong to one hop: taken off here, never passed on as they came."""

LOG_LEVELS: Final = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)
"""RFC 5424 severities, least severe first."""
