"""MCP on the wire, without I/O: envelopes that keep bytes, eras, server-sent events, error codes."""
