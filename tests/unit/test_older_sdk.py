"""Servers that were written for an older SDK are known by what they say when they end."""

import pytest

from mcphub.catalog.older_sdk import needs_older_sdk


@pytest.mark.parametrize(
    ("said", "old"),
    [
        ("AttributeError: 'Server' object has no attribute 'list_tools'", True),
        ("ImportError: cannot import name 'McpError' from 'mcp.server' (/x)", True),
        ("ModuleNotFoundError: No module named 'mcp.server.fastmcp'", True),
        ("TypeError: FastMCP.__init__() got an unexpected keyword argument 'version'", True),
        ("ImportError: cannot import name 'Context' from 'fastmcp.server' (/x)", True),
        ("AttributeError: module 'mcp.types' has no attribute 'Icon'", True),
        ("ModuleNotFoundError: No module named 'numpy'", False),
        ("AttributeError: 'Servers' object has no attribute 'list_tools'", False),
        ("KeyError: 'MCP_TOKEN'", False),
    ],
)
def test_a_server_for_an_older_sdk_is_known_by_its_last_words(said, old):
    assert needs_older_sdk(said) is old
