"""A check ends when its time is over, and says what it did not do."""

from time import monotonic

import pytest

from mcphub.isolation.model import Verdict
from tests.isolation.checking import checked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200)]
BUDGET_S = 20.0
CLEANUP_S = 15.0  # ends of processes and connections, on a busy machine


@pytest.fixture(params=["leaky", "clean"])
def leaky(request):
    return request.param == "leaky"


async def test_a_slow_server_is_checked_in_the_time_and_is_never_called_clean(
    spawner, tmp_path, leaky
):
    began = monotonic()
    result = await checked(spawner, tmp_path, "Slow", leaky=leaky, budget_s=BUDGET_S)
    assert monotonic() - began < BUDGET_S + CLEANUP_S
    assert result.coverage.undone
    if leaky:  # what was found stays found
        assert (result.verdict, result.safe_to_share) == (Verdict.LEAK, False)
        assert result.classes == ("state",)
    else:
        assert (result.verdict, result.safe_to_share) == (Verdict.INCONCLUSIVE, None)
        assert "--budget" in result.reason
