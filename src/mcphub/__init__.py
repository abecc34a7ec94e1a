"""MCPHub: one MCP endpoint for a whole team, in front of ordinary MCP servers, with isolation between users."""

__version__ = "0.1.0"
