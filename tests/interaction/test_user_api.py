"""The two small HTTP APIs over real identity, vault, policy and audit log, with two users."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from mcphub.api.control import control_app
from mcphub.api.turns import Turns
from mcphub.api.user import UserServices, user_routes
from mcphub.audit.log import AuditLog
from mcphub.catalog.guide import guide_of
from mcphub.catalog.settings_file import parse_settings
from mcphub.errors import NotFound
from mcphub.identity.directory import Directory
from mcphub.ids import Clock, system_clock
from mcphub.oauth.keeping import GrantStore
from mcphub.policy.decide import decide
from mcphub.policy.model import Denial, HostFacts, Permit, Principal
from mcphub.store.database import Database
from mcphub.vault.keys import FileKeys, KeyRing
from mcphub.vault.vault import Vault

pytestmark = pytest.mark.anyio

SETTINGS = """{"mcpServers": {
  "github": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-github"],
             "env": {"T": "${USER_GITHUB_TOKEN}"}, "riskLevel": "critical", "groups": ["everyone"]},
  "secret": {"command": "npx", "args": ["-y", "x"], "env": {"T": "${USER_TOKEN}"}, "groups": ["staff"]},
  "off": {"command": "npx", "args": ["-y", "x"], "enabled": false, "groups": ["everyone"]}}}"""
CANARY = "ghp_canary_value_that_nobody_may_see_again"
SLOT = "/api/me/credentials/github/GITHUB_TOKEN"


@dataclass
class World:
    """A hub's API and the keys of two users; ben alone is in `staff`."""

    client: httpx2.AsyncClient
    anna: dict[str, str]
    ben: dict[str, str]
    audit: AuditLog
    vault: Vault
    principals: Mapping[str, Principal]


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock = system_clock) -> AsyncIterator[World]:
    db = Database.at(f"sqlite:///{tmp_path / 'hub.db'}")
    await db.migrate()
    directory = Directory(db, system_clock)
    vault = Vault(db, KeyRing.load(FileKeys(tmp_path / "keys")), system_clock)
    audit = AuditLog(db, system_clock)
    specs = parse_settings(SETTINGS, {}).specs
    await directory.add_group("staff")
    headers = {}
    for name in ("anna", "ben"):
        user = await directory.add_user(name)
        if name == "ben":
            await directory.join(user.id, "staff")
        key = (await directory.create_key(user.id)).key.reveal()
        headers[name] = {"Authorization": f"Bearer {key}"}
    snapshot = await directory.snapshot()

    def decided(principal: Principal, server: str) -> Permit | Denial:
        return decide(principal, specs[server].facts(version="1"), HostFacts(5))

    async def changed() -> None:
        pass

    services = UserServices(
        authenticate=lambda bearer: snapshot.authenticate(bearer, system_clock()),
        decide=decided,
        specs=lambda: specs,
        guide=guide_of,
        vault=vault,
        audit=audit.write,
        together=db.together,
        end_grant=GrantStore(db, vault, audit, lambda: specs, system_clock).end,
        changed=changed,
        turns=Turns(clock),
    )
    app = Starlette(routes=[Mount("/api", routes=user_routes(services))])
    transport = httpx2.ASGITransport(app=app)
    principals = {name: await directory.principal_of(name) for name in ("anna", "ben")}
    async with httpx2.AsyncClient(transport=transport, base_url="http://hub") as client:
        yield World(client, headers["anna"], headers["ben"], audit, vault, principals)
    await db.close()


async def test_a_user_sees_who_the_key_belongs_to(tmp_path: Path) -> None:
    async with world(tmp_path) as hub:
        anna = (await hub.client.get("/api/me", headers=hub.anna)).json()
        ben = (await hub.client.get("/api/me", headers=hub.ben)).json()
    assert (anna["name"], anna["role"], anna["groups"]) == ("anna", "user", ["everyone"])
    assert (ben["name"], ben["groups"]) == ("ben", ["everyone", "staff"])


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/me"), ("GET", "/api/me/servers"), ("GET", "/api/me/credentials"),
     ("PUT", SLOT), ("DELETE", SLOT)],
)  # fmt: skip
async def test_every_route_needs_a_valid_key_in_the_header(
    tmp_path: Path, method: str, path: str
) -> None:
    async with world(tmp_path) as hub:
        key = hub.anna["Authorization"].removeprefix("Bearer ")
        for headers, query in [
            ({}, ""),
            ({"Authorization": "Bearer mcphub_wrong"}, ""),
            ({"Authorization": f"Basic {key}"}, ""),
            ({"Cookie": f"key={key}"}, ""),
            ({}, f"?key={key}"),
        ]:
            answer = await hub.client.request(method, path + query, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
            assert answer.headers["www-authenticate"] == "Bearer"
        both = [
            ("Authorization", hub.anna["Authorization"]),
            ("Authorization", hub.ben["Authorization"]),
        ]
        assert (await hub.client.request(method, path, headers=both)).status_code == 400


async def test_servers_are_those_of_policy_with_what_is_missing_and_how_to_get_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as hub:
        anna = (await hub.client.get("/api/me/servers", headers=hub.anna)).json()["servers"]
        ben = (await hub.client.get("/api/me/servers", headers=hub.ben)).json()["servers"]
        await hub.client.put(SLOT, headers=hub.anna, json={"value": CANARY})
        after = (await hub.client.get("/api/me/servers", headers=hub.anna)).json()["servers"]
    assert [server["name"] for server in anna] == ["github"]
    assert [server["name"] for server in ben] == ["github", "secret"]
    assert anna[0]["isolation"] == "user"
    assert anna[0]["missing"] == ["GITHUB_TOKEN"]
    assert "GitHub" in anna[0]["slots"][0]["guide"]["title"]
    assert after[0]["missing"] == []
    assert after[0]["slots"][0]["set"]


async def test_a_value_goes_in_and_never_comes_out_and_belongs_to_its_user_only(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as hub:
        stored = await hub.client.put(SLOT, headers=hub.anna, json={"value": CANARY})
        assert (stored.status_code, stored.content) == (204, b"")
        texts = [
            (await hub.client.get(path, headers=headers)).text
            for path in ("/api/me", "/api/me/servers", "/api/me/credentials")
            for headers in (hub.anna, hub.ben)
        ]
        mine = (await hub.client.get("/api/me/credentials", headers=hub.anna)).json()
        theirs = (await hub.client.get("/api/me/credentials", headers=hub.ben)).json()
        foreign = await hub.client.delete(SLOT, headers=hub.ben)
        events = await hub.audit.recent()
        assert len(await hub.vault.listing(hub.principals["anna"])) == 1
        assert (await hub.client.delete(SLOT, headers=hub.anna)).status_code == 204
        assert (await hub.client.delete(SLOT, headers=hub.anna)).status_code == 404
    assert CANARY not in "".join(texts) + str(events)
    assert [(c["server"], c["slot"]) for c in mine["credentials"]] == [("github", "GITHUB_TOKEN")]
    assert theirs == {"credentials": []}
    assert foreign.status_code == 404
    assert events[0].action == "credential:set"


async def test_a_program_that_changes_credentials_in_a_loop_has_to_wait_and_nobody_else(
    tmp_path: Path,
) -> None:
    now = [1000.0]
    async with world(tmp_path, clock=lambda: now[0]) as hub:

        async def put(headers: dict[str, str]) -> httpx2.Response:
            return await hub.client.put(SLOT, headers=headers, json={"value": CANARY})

        assert {(await put(hub.anna)).status_code for _ in range(60)} == {204}
        refused = await put(hub.anna)
        assert (refused.status_code, refused.json()["code"]) == (429, "limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        assert (await hub.client.delete(SLOT, headers=hub.anna)).status_code == 429
        assert (await put(hub.ben)).status_code == 204
        assert len(await hub.audit.recent(100)) == 61
        now[0] += 1
        assert [(await put(hub.anna)).status_code for _ in range(2)] == [204, 429]


async def test_foreign_unknown_and_undeclared_are_not_found(tmp_path: Path) -> None:
    async with world(tmp_path) as hub:

        async def put(path: str) -> httpx2.Response:
            return await hub.client.put(path, headers=hub.anna, json={"value": "x"})

        foreign = await put("/api/me/credentials/secret/TOKEN")
        unknown = await put("/api/me/credentials/nothing/TOKEN")
        undeclared = await put("/api/me/credentials/github/OTHER")
        switched_off = await put("/api/me/credentials/off/TOKEN")
    assert foreign.status_code == unknown.status_code == undeclared.status_code == 404
    assert foreign.content == unknown.content
    assert "GITHUB_TOKEN" in undeclared.json()["hint"]
    assert (switched_off.status_code, switched_off.json()["code"]) == (403, "server-disabled")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"value": 3}', b'{"value": ""}', b'{"value": "a\\u0000"}', b"[]", b"\xff",
     b'{"value": "x", "user": "ben"}', b'{"value": "' + b"x" * 70_000 + b'"}'],
)  # fmt: skip
async def test_a_body_that_is_not_one_value_is_refused_and_not_repeated(
    tmp_path: Path, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    async with world(tmp_path) as hub:
        answer = await hub.client.put(SLOT, headers=hub.anna | headers, content=body)
        form = await hub.client.put(SLOT, headers=hub.anna, content=b'{"value": "x"}')
        assert await hub.vault.listing(hub.principals["anna"]) == []
    assert answer.status_code == form.status_code == 400
    assert "xxx" not in answer.text


class SmallHub:
    """A hub with one instance, for the control API."""

    def __init__(self) -> None:
        self.refreshed = 0
        self.stopped: list[str] = []

    async def refresh(self) -> int:
        self.refreshed += 1
        return 7

    def status(self) -> dict[str, object]:
        return {"url": "http://127.0.0.1:1"}

    def instances(self) -> list[dict[str, object]]:
        return [{"id": "i_1", "user": "u_1"}]

    def unavailable(self) -> list[dict[str, str]]:
        return [{"server": "s", "user": "", "reason": "slow"}]

    async def stop_instance(self, instance_id: str) -> None:
        if instance_id != "i_1":
            raise NotFound("There is no such instance.", hint="See `mcphub instances`.")
        self.stopped.append(instance_id)

    def stderr(self, instance_id: str) -> list[str]:
        if instance_id == "broken":
            raise RuntimeError(CANARY)
        return [f"line of {instance_id}"]

    def tools(self, instance_id: str) -> list[str] | None:
        return ["add"] if instance_id == "i_1" else None


async def test_the_control_api_steers_a_running_hub() -> None:
    hub = SmallHub()
    transport = httpx2.ASGITransport(app=control_app(hub))
    async with httpx2.AsyncClient(transport=transport, base_url="http://hub") as client:

        async def ask(method: str, path: str) -> tuple[int, Any]:
            answer = await client.request(method, path)
            return answer.status_code, answer.json() if answer.content else None

        assert await ask("POST", "/refresh") == (200, {"revision": 7})
        assert await ask("GET", "/status") == (200, {"url": "http://127.0.0.1:1"})
        assert await ask("GET", "/instances") == (
            200,
            {
                "instances": [{"id": "i_1", "user": "u_1"}],
                "unavailable": [{"server": "s", "user": "", "reason": "slow"}],
            },
        )
        assert await ask("GET", "/instances/i_1/stderr") == (200, {"lines": ["line of i_1"]})
        assert await ask("GET", "/instances/i_1/tools") == (200, {"tools": ["add"]})
        assert await ask("GET", "/instances/i_2/tools") == (200, {"tools": None})
        assert await ask("DELETE", "/instances/i_1") == (204, None)
        missing = (404, {"code": "not_found", "message": "There is no such instance.",
                         "hint": "See `mcphub instances`."})  # fmt: skip
        assert await ask("DELETE", "/instances/i_2") == missing
        status, failed = await ask("GET", "/instances/broken/stderr")
    assert (status, hub.refreshed, hub.stopped) == (500, 1, ["i_1"])
    assert CANARY not in str(failed)
