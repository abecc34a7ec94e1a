"""What SDKs say when a tool asks its client by a request, on a connection of the modern era."""

import pytest

from mcphub.spawn.dialects import asked_in_vain


@pytest.mark.parametrize(
    "said",
    [
        # mcp 2.3, fastmcp 4.2, @modelcontextprotocol/server 2.4
        b"Cannot send 'elicitation/create': this transport context has no back-channel for "
        b"server-initiated requests.",
        b"elicitation via server-initiated requests is unavailable on 2026-07-28 connections.",
        b"Server-to-client requests are not available on protocol revision 2026-07-28: "
        b"'sampling/createMessage' cannot be sent while serving a request on that revision.",
    ],
)
def test_the_texts_of_the_sdks_are_known(said):
    assert asked_in_vain(b'{"result":{"content":[{"type":"text","text":"' + said + b'"}]}}')


@pytest.mark.parametrize("said", [b"", b"The user declined.", b"The channel is not available."])
def test_other_failures_are_none(said):
    assert not asked_in_vain(said)
