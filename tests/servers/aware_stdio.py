"""A user-aware notebook on stdio that remembers in the memory of its process, per user."""

import json
import secrets

from mcp.server.mcpserver import MCPServer
from mcp_types import Resource

from mcphub_sdk import current_user, current_user_or_none, user_aware

PROCESS = secrets.token_hex(8)  # a pid is the same in every sandbox


class Notebook(MCPServer):
    """Lists its user's notebook only."""

    async def list_resources(self) -> list[Resource]:
        user = current_user_or_none()
        return [Resource(uri=f"note://{user.id}/", name="Yours")] if user else []


server = user_aware(Notebook("notebook", log_level="CRITICAL"), without_user="refuse")


@server.tool()
def remember(text: str) -> str:
    current_user().state["note"] = text
    return "kept"


@server.tool()
def recall() -> str:
    return json.dumps([PROCESS, current_user().id, current_user().state.get("note")])


server.run()
