"""Challenges, scopes and resources as servers write them."""

import pytest

from mcphub.oauth.discovery import Challenge, challenge_of, covers, union, valid_scopes

METADATA = "https://a.example/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], Challenge()),
        (["Basic realm=x"], Challenge()),
        (["Bearer"], Challenge()),
        ([f'Bearer resource_metadata="{METADATA}"'], Challenge(METADATA)),
        ([f"bearer   resource_metadata={METADATA}"], Challenge(METADATA)),
        (
            [f'Basic realm="a, Bearer b", Bearer scope="x y",resource_metadata="{METADATA}"'],
            Challenge(METADATA, ("x", "y")),
        ),
        (
            [
                'Bearer error="insufficient_scope", scope="a b", error_description="say \\"x\\", y=z"'
            ],
            Challenge("", ("a", "b"), "insufficient_scope"),
        ),
        (["Negotiate", 'Bearer scope="a"'], Challenge("", ("a",))),
        (['Bearer scope="a", scope="b"'], Challenge("", ("a",))),
        (['Bearer scope="a", Basic scope="b"'], Challenge("", ("a",))),
    ],
)
def test_a_challenge_is_read(headers, found):
    assert challenge_of(headers) == found


@pytest.mark.parametrize(
    ("resource", "url", "fits"),
    [
        ("https://a.example/mcp", "https://a.example/mcp", True),
        ("https://a.example/mcp", "https://a.example/mcp/x", True),
        ("https://a.example", "https://a.example/mcp", True),
        ("https://a.example/", "https://a.example/mcp", True),
        ("https://A.example/mcp/", "https://a.example/mcp", True),
        ("https://a.example/mcp", "https://a.example/mcp2", False),
        ("https://a.example/mcp/x", "https://a.example/mcp", False),
        ("https://b.example/mcp", "https://a.example/mcp", False),
        ("http://a.example/mcp", "https://a.example/mcp", False),
        ("https://a.example:444/mcp", "https://a.example/mcp", False),
        ("https://a.example.evil.example/mcp", "https://a.example/mcp", False),
        ("https://a.example/mcp#x", "https://a.example/mcp", False),
    ],
)
def test_a_token_is_for_a_url_at_or_below_its_resource(resource, url, fits):
    assert covers(resource, url) is fits


def test_scopes_are_bounded_and_each_comes_once():
    assert valid_scopes(["a", "a", 'b"', "", "c\n", "d" * 300, "e"]) == ("a", "e")
    assert len(valid_scopes(str(n) for n in range(1000))) == 64
    assert union(("a", "b"), ("b", "c")) == ("a", "b", "c")
