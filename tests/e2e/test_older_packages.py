"""A published server that was written for `mcp` 1 and asks for any: added as its README says, it works."""

import os
import sys

import pytest
from tests.e2e.servers_under_test import LEGACY, MODERN, must, published_hub, uvx
from tests.packages_fixture import CACHE, pin_of, store_at

from mcphub.catalog.older_sdk import OLDER_SDK
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.pypi import Pypi, PythonTooOld
from mcphub.catalog.toolchain import find_toolchain

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.timeout(900)]

LINE = ("mcp-server-sqlite==2025.4.25", "--db-path", "${USER_HOME}/notes.db")


async def test_a_server_for_the_older_sdk_is_installed_with_it_and_serves_two_users(tmp_path):
    async with published_hub(tmp_path / "hub", {"notes": uvx(*LINE)}) as team:
        for mode in (LEGACY, MODERN):
            async with team.both("notes", mode) as (alice, bob):
                table = f"of_alice_{mode[:3].replace('-', '_')}"
                await must(alice, "create_table", {"query": f"CREATE TABLE {table} (word TEXT)"})
                assert table in await must(alice, "list_tables", {})
                assert table not in await must(bob, "list_tables", {})
        first = await pin_of(store_at(CACHE), "uvx", *LINE)
        now = (await team.hub.ground.states.all())["notes"].pin
        assert now.constraints == OLDER_SDK
        assert (now.version, now.integrity) == (first.version, first.integrity)


async def test_a_package_that_needs_a_newer_python_says_which(tmp_path):
    store = PackageStore(
        tmp_path, find_toolchain(os.environ["PATH"]), dict(os.environ) | {"PATH": "/nowhere"}
    )
    wanted = store.requirement("uvx", ["osm-mcp-server==0.1.1"])  # asks for 3.13
    if sys.version_info >= (3, 13):
        assert (await store.resolve(wanted)).constraints == ()
        return
    with pytest.raises(PythonTooOld) as refused:
        await store.resolve(wanted)
    assert refused.value.needs == 13 and "python3.13" in refused.value.hint


async def test_a_newer_python_of_the_machine_is_taken_by_itself(tmp_path, monkeypatch):
    """uv is told of the interpreter of this test as if it were the newer one that the package needs."""
    store = store_at(tmp_path)
    asked = []

    async def lock(self, wanted, extras, constraints, work, what):
        asked.append(constraints)
        if not constraints:
            raise PythonTooOld(what, 11)
        (work / "requirements.txt").write_text(f"{wanted[0]} --hash=sha256:{'0' * 64}\n")

    monkeypatch.setattr(Pypi, "_lock_tree", lock)
    pin = await store.resolve(store.requirement("uvx", ["some-server==1.0"]))
    assert asked[0] == () and asked[1] == pin.constraints
    assert pin.constraints[0].startswith("python=3.")
