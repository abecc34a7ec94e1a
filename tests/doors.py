"""Both doors of the data plane: a module with `pytestmark = BOTH_DOORS` runs once through each."""

import pytest

BOTH_DOORS = pytest.mark.parametrize(
    "fast_lane", [True, False], ids=["fast-lane", "asgi"], scope="module"
)


def through(fast_lane, overrides=None):
    """Return overrides of settings with the fast lane on or off."""
    given = dict(overrides or {})
    return given | {"listen": {"fast_lane": fast_lane, **given.get("listen", {})}}
