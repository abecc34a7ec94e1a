"""Servers that know their user: what they are told, of whom, and that nobody else can tell it."""

import hashlib
import json
import logging
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp_types import ElicitResult

from mcphub.catalog.versions import exact_version
from mcphub.gateway import context
from mcphub.gateway.shares import Reader
from mcphub.ground import context_keys
from mcphub.secret import Secret
from mcphub.wire.digest import Digest
from mcphub_sdk import DecryptionKey, new_decryption_key
from mcphub_sdk.verifying import peek_claims
from tests.interaction.clients import MODERN, connected, raw_client, request, text_of
from tests.servers.aware_http import free_port, notebook, serving_notebook
from tests.servers.recording_http import recording_server

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
KEY, ISSUER = "dev.mcphub/user-context", "urn:test:hub"
ERAS = pytest.mark.parametrize(
    ("mode", "era"),
    [("legacy", "legacy"), (MODERN, "modern"), ("legacy", "modern"), (MODERN, "legacy")],
)


@pytest.fixture
def aware(hub_of):
    """Make a hub with a user-aware notebook behind it: `async with aware(era="modern", ...) as (hub, notes):`."""

    @asynccontextmanager
    async def make(*, without_user="refuse", key=None, server_options=None, **fields):
        port, hub_port = free_port(), free_port()
        url = f"http://127.0.0.1:{port}/mcp"
        trust = {"issuer": ISSUER, "audience": url, "hub": f"http://127.0.0.1:{hub_port}"}
        options = {"trust": trust, "decryption_key": key} | (server_options or {})
        settings = {
            "type": "http", "url": url, "userAware": True, "riskLevel": "critical",
            "groups": ["everyone"], **fields,
        }  # fmt: skip
        overrides = {"listen": {"port": hub_port}, "context": {"issuer": ISSUER}}
        async with serving_notebook(notebook(without_user=without_user, **options), port) as notes:
            async with hub_of({"notes": settings}, overrides=overrides) as hub:
                yield hub, notes

    return make


async def give(hub, user, slot, value):
    principal = await hub.hub.ground.directory.principal_of(user)
    await hub.hub.ground.vault.put(principal, "notes", slot, Secret(value))
    await hub.hub.refresh()


def token_of(params):
    return params["_meta"][KEY]["assertion"]


@ERAS
async def test_a_server_of_either_era_knows_each_user_and_keeps_them_apart(aware, mode, era):
    async with aware(era=era) as (hub, _):
        async with (
            connected(hub, "alice", "notes", mode) as alice,
            connected(hub, "bob", "notes", mode) as bob,
        ):
            assert await text_of(alice, "remember", {"text": "hers"}) == "kept"
            seen = {"alice": set(), "bob": set()}

            async def ask(user, client):
                for _ in range(5):
                    seen[user].add(await text_of(client, "recall"))

            async with anyio.create_task_group() as group:
                group.start_soon(ask, "alice", alice)
                group.start_soon(ask, "bob", bob)
            assert seen == {"alice": {"hers"}, "bob": {"None"}}
        async with connected(
            hub, "alice", "", mode
        ) as aggregated:  # the digest is of the server's name
            assert await text_of(aggregated, "notes__recall") == "hers"


async def test_a_list_is_asked_for_its_own_user(aware):
    async with aware() as (hub, notes):
        subjects = []
        for user in ("alice", "bob"):
            async with connected(hub, user, "notes") as client:
                await client.list_tools()
            headers, params = notes.calls("tools/list")[-1]
            claims = peek_claims(token_of(params))
            assert claims["request"]["method"] == "tools/list"
            assert headers["x-mcphub-user-id"] == claims["sub"]
            subjects.append(claims["sub"])
        assert len(set(subjects)) == 2


@ERAS
async def test_each_request_tells_its_own_user_in_headers_and_in_the_signed_context(
    aware, mode, era
):
    async with aware(
        era=era,
        userContext={
            "groups": ["engineering"],
            "permissions": {"everyone": ["read"], "data": ["export"]},
        },
    ) as (hub, notes):
        told = {}
        for user in ("alice", "bob"):
            async with connected(hub, user, "notes", mode) as client:
                told[user] = json.loads(await text_of(client, "whoami"))
        assert told["alice"][1:3] == [["engineering"], ["read"]]
        assert told["bob"][1:3] == [[], ["export", "read"]]
        assert told["alice"][0] != told["bob"][0]
        ids = set()
        for user in ("alice", "bob"):
            principal = await hub.hub.ground.directory.principal_of(user)
            [(headers, params)] = [
                call
                for call in notes.calls()
                if peek_claims(token_of(call[1]))["sub"] == told[user][0]
            ]
            claims = peek_claims(token_of(params))
            assert headers["x-mcphub-user-context"] == token_of(params)
            assert headers["x-mcphub-user-id"] == claims["sub"] != principal.user_id
            assert headers["x-mcphub-request-id"] == claims["jti"]
            assert headers["x-mcphub-protocol-version"] == "1"
            assert headers.get("x-mcphub-user-groups") == (
                "engineering" if user == "alice" else None
            )
            assert ("x-mcphub-session-id" in headers) == (mode == "legacy")
            assert (claims["iss"], claims["aud"]) == (ISSUER, notes.url)
            assert 0 < claims["exp"] - claims["iat"] <= 300
            assert claims["install"] == hub.hub.ground.install_id
            assert user not in json.dumps([headers, params, claims]).replace("remember", "")
            ids.add(claims["jti"])
        assert len(ids) == 2


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_what_a_client_says_of_its_user_reaches_no_server(aware, mode):
    async with aware(era="legacy") as (hub, notes):
        async with connected(hub, "bob", "notes", mode) as bob:
            await text_of(bob, "recall")
        bobs = notes.calls()[0]
        forged = {
            "X-MCPHub-User-Context": token_of(bobs[1]),
            "X-MCPHub-User-Id": bobs[0]["x-mcphub-user-id"],
            "X-MCPHub-User-Groups": "admins",
            "X-MCPHub-GitHub-Token": "canary",
            "X-MCPHub-Anything": "canary",
            "Cookie": "a=canary",
            "Forwarded": "for=canary",
        }
        params = {
            "name": "recall",
            "arguments": {},
            "_meta": {KEY: {"assertion": token_of(bobs[1])}},
        }
        extensions = {"extensions": {KEY: {"versions": ["1"]}}}
        async with raw_client(hub, "alice", "notes", **forged) as alice:
            if mode == "legacy":
                alice.capabilities = extensions
                await alice.open()
                answer = await alice.post(request("tools/call", params))
            else:
                meta = {
                    KEY: {"assertion": token_of(bobs[1])},
                    "io.modelcontextprotocol/clientCapabilities": extensions,
                }
                answer = await alice.modern("tools/call", params, meta=meta)
        assert "None" in answer.text
        headers, seen = notes.calls()[-1]
        assert token_of(seen) != token_of(bobs[1])
        assert peek_claims(token_of(seen))["sub"] != peek_claims(token_of(bobs[1]))["sub"]
        assert headers["x-mcphub-user-id"] == peek_claims(token_of(seen))["sub"]
        assert headers["x-mcphub-user-context"] == token_of(seen)
        assert "canary" not in json.dumps(notes.requests) and "admins" not in json.dumps(headers)
        assert hub.keys["alice"] not in json.dumps(notes.requests)


async def test_a_stolen_context_does_nothing_for_whoever_sends_it_to_the_server(aware):
    async with aware(era="legacy") as (hub, notes):
        async with connected(hub, "alice", "notes") as alice:
            await text_of(alice, "remember", {"text": "hers"})
        _, stolen = notes.calls()[-1]
        for params in (
            {"name": "recall", "arguments": {}, "_meta": stolen["_meta"]},  # another request
            stolen,  # the very same one, again
            {"name": "recall", "arguments": {}},  # stripped
        ):
            async with raw_client(hub, "alice", "notes") as thief:
                thief.url = notes.url
                thief.http.headers.pop("authorization")
                await thief.open()
                answer = (await thief.post(request("tools/call", params))).text
            assert "error" in answer and "hers" not in answer and "kept" not in answer


async def test_a_server_that_offers_nothing_gets_a_context_only_when_told_always(hub_of):
    async with recording_server() as server:
        for send, expected in (("auto", False), ("never", False), ("always", True)):
            server.requests.clear()
            settings = {
                "type": "http", "url": server.url, "groups": ["everyone"], "era": "legacy",
                "userAware": True, "userContext": {"send": send},
            }  # fmt: skip
            async with hub_of({"remote": settings}) as hub:
                async with connected(hub, "alice", "remote") as alice:
                    await text_of(alice, "recall")
            [(headers, params)] = [
                (headers, message["params"])
                for _, headers, message in server.requests
                if message.get("method") == "tools/call"
            ]
            assert (KEY in params.get("_meta", {})) is expected
            assert ("x-mcphub-user-context" in headers) is expected
            assert headers["x-mcphub-user-id"].startswith("p_")


async def test_an_ordinary_server_is_told_nothing_and_is_not_trusted_with_users(hub_of):
    async with recording_server() as server:
        plain = {"type": "http", "url": server.url, "groups": ["everyone"], "era": "legacy"}
        async with hub_of({"remote": plain}) as hub:
            async with raw_client(hub, "alice", "remote") as alice:
                assert "cannot be isolated" in (await alice.open()).text
            async with connected(hub, "root", "remote") as root:
                await text_of(root, "recall")
        names = {name for _, headers, _ in server.requests for name in headers}
        assert not any(name.startswith("x-mcphub-") for name in names)
        assert KEY not in json.dumps([message for _, _, message in server.requests])


@pytest.mark.parametrize("encrypted", [False, True], ids=["header", "encrypted"])
async def test_a_declared_credential_reaches_the_server_with_its_own_user_only(
    aware, encrypted, caplog, capsys
):
    key = new_decryption_key()
    context = {"encryptTo": DecryptionKey(key).public_jwk} if encrypted else {}
    caplog.set_level(logging.DEBUG)
    async with aware(
        era="legacy", key=key, credentialSlots=["GITHUB_TOKEN"], userContext=context
    ) as (hub, notes):
        async with raw_client(hub, "alice", "notes") as alice:
            assert "GITHUB_TOKEN" in (await alice.open()).text  # nobody else's in its place (R5)
        assert notes.calls() == []
        for user in ("alice", "bob"):
            await give(hub, user, "GITHUB_TOKEN", f"canary-of-{user}")
        for user in ("alice", "bob"):
            async with connected(hub, user, "notes") as client:
                got = await text_of(client, "credential", {"slot": "GITHUB_TOKEN"})
            own = hashlib.sha256(f"canary-of-{user}".encode()).hexdigest()
            assert (got == own) is encrypted
        for headers, params in notes.calls():
            sub = peek_claims(token_of(params))["sub"]
            assert ("x-mcphub-github-token" in headers) is not encrypted
            assert "canary" not in json.dumps(params)
            if not encrypted:
                assert headers["x-mcphub-github-token"] in {"canary-of-alice", "canary-of-bob"}
                owner = headers["x-mcphub-github-token"].removeprefix("canary-of-")
                principal = await hub.hub.ground.directory.principal_of(owner)
                signer = hub.hub.ground.signer
                assert sub == signer.subject(principal.user_id, notes.url)
        neutral = [h for h, m in notes.requests if "x-mcphub-user-id" not in h]
        assert "canary" not in json.dumps(neutral)
    assert "canary" not in caplog.text + "".join(capsys.readouterr())


async def test_keys_are_rotated_without_a_failed_call(aware):
    async with aware(era="legacy") as (hub, notes):
        async with connected(hub, "alice", "notes") as alice:
            assert await text_of(alice, "remember", {"text": "before"}) == "kept"
            keys = context_keys(hub.hub.ground.settings)
            for _ in range(2):
                before = len(notes.calls())
                keys.rotate()
                with anyio.fail_after(20):
                    signed = set()
                    while len(signed) < 2 and len(notes.calls()) - before < 400:
                        assert await text_of(alice, "recall") == "before"
                        signed = {token_of(p).split(".")[0] for _, p in notes.calls()[before - 1 :]}
                assert len(signed) == 2


@ERAS
async def test_a_question_in_the_middle_of_a_call_is_asked_for_its_own_user(aware, mode, era):
    asked = []

    async def accept(context, params):
        asked.append(params.message)
        return ElicitResult(action="accept", content={"ok": True})

    async with aware(era=era) as (hub, notes):
        async with connected(hub, "alice", "notes", mode, elicitation_callback=accept) as alice:
            user, ok, _ = (await text_of(alice, "confirm")).split()
        assert ok == "True" and asked == [f"Sure, {user}?"]
        writings = [peek_claims(token_of(params)) for _, params in notes.calls()]
        # a modern server is asked again with the answer: each writing has a context of its own
        assert len(writings) == len({w["jti"] for w in writings}) == (2 if era == "modern" else 1)
        assert {w["sub"] for w in writings} == {user}


LARGE = '{"rows": [1, 2.5, "żółć\\n"]}\n' * 25_000
"""Text of 800 KB, escaped all over."""


@ERAS
async def test_a_large_request_is_signed_in_steps_and_known_again(aware, mode, era, monkeypatch):
    steps = []

    def read(digest):
        steps.append(digest.method)
        return Digest.read(digest)

    def finish(digest):
        assert "arguments" not in digest.params or len(digest.params["arguments"]) < 10_000
        Digest.finish(digest)

    class Watched(Digest):
        def __init__(self, method, params):
            super().__init__(method, params)
            self.params = params

    Watched.read, Watched.finish = read, finish
    monkeypatch.setattr(context, "Digest", Watched)

    async def accept(_context, _params):
        return ElicitResult(action="accept", content={"ok": True})

    async with aware(era=era) as (hub, notes):
        users = {}
        for user, server in (("alice", "notes"), ("bob", "")):
            prefix = "" if server else "notes__"
            async with connected(hub, user, server, mode, elicitation_callback=accept) as client:
                text = f"{user} {LARGE}"
                assert await text_of(client, prefix + "remember", {"text": text}) == "kept"
                assert len(steps) > 5
                steps.clear()
                assert await text_of(client, prefix + "recall") == text
                said = await text_of(client, prefix + "confirm", {"text": text})
                users[user], ok, length = said.split()
                assert (ok, int(length)) == ("True", len(text))
                assert len(steps) > 5 * (2 if era == "modern" else 1), "each writing anew"
                steps.clear()
        assert users["alice"] != users["bob"]
        writings = [peek_claims(token_of(params)) for _, params in notes.calls()]
        assert len({w["jti"] for w in writings}) == len(writings)


@ERAS
async def test_who_loses_the_right_while_a_large_request_is_signed_sends_nothing(
    aware, mode, era, monkeypatch
):
    async with aware(era=era) as (hub, notes), raw_client(hub, "alice", "notes") as alice:
        read, lost = Reader.catch_up, []

        async def read_and_lose(reader, large):
            await read(reader, large)
            if isinstance(large, Digest) and not lost:
                lost.append(True)
                await hub.hub.ground.directory.disable_user("alice")
                await hub.hub.refresh()

        if mode == "legacy":
            await alice.open()
        monkeypatch.setattr(Reader, "catch_up", read_and_lose)
        call = {"name": "remember", "arguments": {"text": LARGE}}
        if mode == "legacy":
            answer = await alice.post(request("tools/call", call))
        else:
            answer = await alice.modern("tools/call", call)
        assert lost and "may not use server 'notes' any more" in answer.text
        assert notes.calls() == []
        async with connected(hub, "bob", "notes", mode) as bob:
            assert await text_of(bob, "remember", {"text": LARGE}) == "kept"
        assert len(notes.calls()) == 1


async def test_a_large_request_of_another_form_is_refused_in_steps_too(aware):
    async with aware() as (hub, notes), raw_client(hub, "alice", "notes") as alice:
        await alice.open()
        for text, why in (
            ("1e999", "unambiguous"),
            ("[" + "1," * 100_000 + "1]", "100,000 values"),
        ):
            call = {"name": "remember", "arguments": {"text": "HERE", "more": "x" * 300_000}}
            body = json.dumps(request("tools/call", call)).replace('"HERE"', text)
            headers = alice.headers | {"Content-Type": "application/json"}
            answer = await alice.http.post(alice.url, content=body, headers=headers)
            assert why in answer.text
        assert notes.calls() == []


async def test_the_hub_publishes_its_public_keys_and_nothing_else(aware):
    async with aware(era="legacy") as (hub, _):
        async with raw_client(hub, "alice", "notes") as client:
            client.http.headers.pop("authorization")
            about = (await client.http.get(f"{hub.url}/.well-known/mcphub-user-context")).json()
            keys = (await client.http.get(about["jwks_uri"])).json()["keys"]
        assert about["issuer"] == ISSUER
        assert [set(key) for key in keys] == [{"kty", "crv", "use", "alg", "kid", "x"}]


async def test_arguments_without_an_unambiguous_form_are_refused_before_the_server(aware):
    async with aware(era="legacy") as (hub, notes):
        async with raw_client(hub, "alice", "notes") as alice:
            await alice.open()
            call = request("tools/call", {"name": "remember", "arguments": {"text": "BIG"}})
            body = json.dumps(call).replace(
                '"BIG"', "1e999"
            )  # no double: JavaScript reads Infinity
            answer = await alice.http.post(
                alice.url,
                content=body,
                headers=alice.headers | {"Content-Type": "application/json"},
            )
        assert "unambiguous" in answer.text
        assert notes.calls() == []


def program(**fields):
    """Settings of the notebook on stdio, with this environment's Python readable in the sandbox."""
    python = Path(sys.executable)
    places = [
        ROOT / "tests" / "servers",
        ROOT / "sdk" / "src",
        Path(sys.prefix),
        Path(sys.base_prefix),
    ]
    return {
        "command": str(python),
        "args": [str(ROOT / "tests" / "servers" / "aware_stdio.py")],
        "groups": ["everyone"],
        "userContext": {},
        "sandbox": {"readable": [str(place) for place in places]},
        **fields,
    }


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_program_is_told_whom_to_trust_and_knows_each_user(hub_of, era):
    async with hub_of({"notes": program(era=era, riskLevel="critical")}) as hub:
        seen = {}
        for user in ("alice", "bob"):
            async with connected(hub, user, "notes") as client:
                await text_of(client, "remember", {"text": f"of {user}"})
                seen[user] = json.loads(await text_of(client, "recall"))
        assert [seen[user][2] for user in seen] == ["of alice", "of bob"]
        assert seen["alice"][:2] != seen["bob"][:2]
        for user, (_, subject, _) in seen.items():
            principal = await hub.hub.ground.directory.principal_of(user)
            signer = hub.hub.ground.signer
            assert subject == signer.subject(principal.user_id, "urn:mcphub:server:notes")


async def test_a_program_gets_new_keys_with_a_new_instance_and_no_call_fails(hub_of):
    async with hub_of({"notes": program(era="legacy", riskLevel="critical")}) as hub:
        async with connected(hub, "alice", "notes") as alice:
            first = json.loads(await text_of(alice, "recall"))
            context_keys(hub.hub.ground.settings).rotate()
            with anyio.fail_after(60):
                while (now := json.loads(await text_of(alice, "recall")))[0] == first[0]:
                    assert now[1] == first[1]
            assert now[1] == first[1]  # the same user for the server


async def test_users_of_one_shared_program_are_kept_apart_by_it(hub_of):
    shared = program(era="legacy", riskLevel="low", isolation="shared")
    async with hub_of({"notes": shared}) as hub:
        spec = hub.hub.access.specs["notes"]
        version = exact_version(spec, None)
        await hub.hub.ground.states.acknowledge("notes", version, "root", "it knows its users")
        await hub.hub.refresh()
        async with (
            connected(hub, "alice", "notes") as alice,
            connected(hub, "bob", "notes") as bob,
        ):
            await text_of(alice, "remember", {"text": "hers"})
            hers, his = [json.loads(await text_of(c, "recall")) for c in (alice, bob)]
            lists = [[r.uri for r in (await c.list_resources()).resources] for c in (alice, bob)]
            assert lists == [[f"note://{hers[1]}/"], [f"note://{his[1]}/"]], "kept for nobody else"
            for _ in range(4):  # each call is told its user anew, however often it was made before
                assert json.loads(await text_of(alice, "recall"))[2] == "hers"
                assert json.loads(await text_of(bob, "recall"))[2] is None
        assert hers[0] == his[0], "one process"
        assert (hers[2], his[2]) == ("hers", None)
