"""Servers that were written for an older SDK are known by what they say when they end."""

import pytest

from mcphub.catalog.older_sdk import holds_back_sdk, needs_older_sdk


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


@pytest.mark.parametrize(
    ("requirements", "held"),
    [
        (["mcp<2"], True),
        (["httpx", "mcp[cli] < 2"], True),
        (["mcp~=1.9"], True),
        (["mcp==1.9.4"], True),
        (["mcp>=1.2"], False),
        (["mcp-things<2"], False),
        (["mcp<20"], False),
        ([], False),
    ],
)
def test_an_older_sdk_that_is_asked_for_already_is_seen(requirements, held):
    assert holds_back_sdk(requirements) is held
