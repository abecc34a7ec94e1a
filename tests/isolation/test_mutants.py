"""Every seeded leak is told from its clean twin, with its class."""

import pytest

from mcphub.isolation.model import Verdict
from tests.isolation import mutants
from tests.isolation.checking import checked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", mutants.VARIANTS)
async def test_a_seeded_leak_is_found_with_its_class(spawner, tmp_path, name):
    result = await checked(spawner, tmp_path, name, leaky=True)
    assert result.classes == mutants.VARIANTS[name].classes, result
    assert result.verdict is Verdict.LEAK
    assert all(finding.confidence >= 0.9 for finding in result.findings)


@pytest.mark.parametrize("name", mutants.VARIANTS)
async def test_its_clean_twin_is_not_accused(spawner, tmp_path, name):
    result = await checked(spawner, tmp_path, name, leaky=False)
    assert result.classes == ()
    assert result.verdict is not Verdict.LEAK
