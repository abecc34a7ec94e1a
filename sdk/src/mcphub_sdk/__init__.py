"""`mcphub-sdk`: an MCP server that knows its user, in five lines.

    from mcp.server.mcpserver import MCPServer
    from mcphub_sdk import current_user, user_aware

    server = user_aware(MCPServer("notes"), without_user="refuse")

    @server.tool()
    def remember(text: str) -> str:
        current_user().state["note"] = text
        return "kept"

A hub sends a signed statement of who the user is with each request; this package verifies it and gives
the user to the tools. It depends on the official `mcp` package only and knows nothing of the hub's code.
"""

from mcphub_sdk.context import EXTENSION, HEADER, UserContext, Without
from mcphub_sdk.credentials import DecryptionKey, new_decryption_key
from mcphub_sdk.server import user_aware
from mcphub_sdk.settings import WrongSettings
from mcphub_sdk.state import FileStore, MemoryStore, State, StateTooLarge, Store, WrongUser
from mcphub_sdk.user import (
    CredentialMissing,
    NoUser,
    PermissionMissing,
    User,
    current_user,
    current_user_or_none,
)
from mcphub_sdk.verifying import AssertionRefused, Claims, Verifier

require_user = current_user
"""The same as `current_user`, for where the value is not needed: `require_user()`."""

__all__ = [
    "EXTENSION",
    "HEADER",
    "AssertionRefused",
    "Claims",
    "CredentialMissing",
    "DecryptionKey",
    "FileStore",
    "MemoryStore",
    "NoUser",
    "PermissionMissing",
    "State",
    "StateTooLarge",
    "Store",
    "User",
    "UserContext",
    "Verifier",
    "Without",
    "WrongSettings",
    "WrongUser",
    "current_user",
    "current_user_or_none",
    "new_decryption_key",
    "require_user",
    "user_aware",
]
