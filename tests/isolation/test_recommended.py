"""What a check recommends to write into the settings."""

import pytest

from tests.isolation.checking import checked

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("ApiToken", {"ACME_API_TOKEN": "${USER_ACME_API_TOKEN}"}),
        (
            "TokenInVariable",
            {
                "ACME_HEADERS": '{"Authorization": "Bearer ${USER_ACME_HEADERS_AUTHORIZATION}", "X-Team": "5"}'
            },
        ),
    ],
)
async def test_a_credential_of_a_variable_becomes_a_slot_of_each_user(spawner, tmp_path, name, env):
    result = await checked(spawner, tmp_path, name, leaky=True)
    slots = result.recommendation["env"]
    assert {key: slots[key] for key in env} == env
    assert result.recommendation["requiresUserIsolation"] is True
