"""Where nothing could be made, lists that show nothing say nothing."""

import pytest

from mcphub.isolation.model import Verdict
from tests.isolation.checking import checked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


async def test_a_server_whose_maker_never_worked_is_not_called_clean(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "Particular", leaky=True)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.safe_to_share is None
    assert "create_order" in result.reason
    assert "list_orders" in result.reason


async def test_a_harmless_leak_does_not_make_it_safe(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "ParticularAndPages", leaky=True)
    assert result.classes == ("history-cache",)
    assert result.safe_to_share is None
    assert "create_order" in result.reason


@pytest.mark.parametrize(
    ("hollow", "said"), [(True, "empty credential"), (False, "without a credential")]
)
async def test_a_token_of_another_name_is_asked_for(spawner, tmp_path, hollow, said):
    result = await checked(spawner, tmp_path, "TokenOfAnotherName", leaky=hollow)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert said in result.reason
    assert "env:ACME_TOKEN went nowhere" in result.reason


@pytest.mark.parametrize("name", ["ParticularElsewhere", "ParticularBeforeItAsks"])
async def test_what_a_service_keeps_for_each_caller_need_not_be_made(spawner, tmp_path, name):
    result = await checked(spawner, tmp_path, name, leaky=False)
    assert "create_order" not in result.coverage.succeeded
    assert "list_orders" in result.coverage.succeeded
    assert result.verdict is Verdict.NO_LEAK_SEEN, result.reason


async def test_what_a_refusal_lacks_is_given_until_it_works(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "OpenObjects", leaky=True)
    assert result.verdict is Verdict.LEAK
    assert "create_tasks" in result.coverage.succeeded


async def test_failures_that_are_told_in_two_ways_are_no_leak(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "WithoutItsEngine", leaky=False)
    assert result.findings == ()
    assert "in the time" not in result.reason
    assert result.verdict is Verdict.INCONCLUSIVE, result.reason


async def test_what_a_server_without_its_engine_keeps_is_found_by_what_works(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "WithoutItsEngine", leaky=True)
    assert result.verdict is Verdict.LEAK
    assert result.classes == ("history-cache",)  # of calls that failed


async def test_what_most_tools_say_alike_is_no_success(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "SaysTheSame", leaky=False)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "said the same: Zugang fehlt" in result.reason


async def test_what_fails_on_stand_ins_may_ask_the_real_service(spawner, tmp_path):
    result = await checked(spawner, tmp_path, "WantsTheRealService", leaky=False)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "`--allow-egress api.acme.test` lets it" in result.reason
