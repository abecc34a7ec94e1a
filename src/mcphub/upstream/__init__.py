"""Bytes to one MCP server."""
