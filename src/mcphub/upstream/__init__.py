"""Bytes to one MCP server: the `Upstream` seam (legacy, modern) over pipes (stdio, HTTP, HTTP with SSE)."""
