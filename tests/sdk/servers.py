"""The same user-aware notebook three times: official SDK, its low-level server, FastMCP."""

import mcp_types as types
from fastmcp import FastMCP
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer

from mcphub_sdk import current_user, current_user_or_none, user_aware


def remember(text):
    current_user().state["note"] = text
    return "kept"


def recall():
    return str(current_user().state.get("note"))


def whoami():
    user = current_user_or_none()
    return (
        "nobody" if user is None else f"{user.id} {sorted(user.groups)} {sorted(user.permissions)}"
    )


def secret(slot):
    return current_user().credential(slot)


def official(**options):
    server = MCPServer("notes", log_level="CRITICAL")
    for tool in (remember, recall, whoami, secret):
        server.tool()(tool)

    @server.resource("note://mine")
    def note() -> str:
        return recall()

    @server.prompt()
    def about(topic: str) -> str:
        return f"{topic} of {current_user().id}"

    return user_aware(server, **options)


def fastmcp(**options):
    server = FastMCP("notes")
    for tool in (remember, recall, whoami, secret):
        server.tool(tool)

    @server.resource("note://mine")
    def note() -> str:
        return recall()

    @server.prompt
    def about(topic: str) -> str:
        return f"{topic} of {current_user().id}"

    return user_aware(server, **options)


def lowlevel(**options):
    tools = {"remember": remember, "recall": recall, "whoami": whoami, "secret": secret}

    async def list_tools(ctx, params):
        return types.ListToolsResult(
            tools=[types.Tool(name=name, input_schema={"type": "object"}) for name in tools]
        )

    async def call_tool(ctx, params):
        try:
            text, failed = tools[params.name](**(params.arguments or {})), False
        except Exception as error:  # noqa: BLE001  as the other two kinds do
            text, failed = str(error), True
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=text)], is_error=failed
        )

    async def read_resource(ctx, params):
        return types.ReadResourceResult(
            contents=[types.TextResourceContents(uri=params.uri, text=recall())]
        )

    async def get_prompt(ctx, params):
        text = f"{params.arguments['topic']} of {current_user().id}"
        message = types.PromptMessage(
            role="user", content=types.TextContent(type="text", text=text)
        )
        return types.GetPromptResult(messages=[message])

    server = Server(
        "notes",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_read_resource=read_resource,
        on_get_prompt=get_prompt,
    )
    return user_aware(server, **options)


KINDS = {"MCPServer": official, "Server": lowlevel, "FastMCP": fastmcp}
