"""Bytes to one MCP server. `stdio` is the legacy server behind two pipes."""
