"""How the time of a check is given to its phases."""

import pytest

from mcphub.isolation.budget import USUAL_S, Budget


@pytest.mark.parametrize(
    ("seconds", "share", "given"),
    [
        (USUAL_S, 1.0, 25.0),
        (USUAL_S * 4, 1.0, 100.0),  # who gives more time gives it to the phases
        (30.0, 1.0, 25.0),
        (30.0, 0.5, 15.0),
        (USUAL_S * 4, 0.1, 60.0),
    ],
)
def test_a_phase_has_its_share_and_its_limit_which_grows_with_the_budget(seconds, share, given):
    assert Budget(seconds).slice(25.0, share).left == pytest.approx(given, abs=0.5)
