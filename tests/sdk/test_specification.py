"""The specification's vectors, schema and recipe agree with the hub, with the SDK and with each other."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import jsonschema
import jwt
import msgspec
import pytest

from mcphub.wire.digest import Digest
from mcphub_sdk import AssertionRefused, DecryptionKey, Verifier
from mcphub_sdk.canonical import canonical, request_digest
from mcphub_sdk.keys import FixedKeys
from mcphub_sdk.verifying import peek_claims
from tests.sdk.vectors import FILE, private, text

pytestmark = pytest.mark.anyio
VECTORS = json.loads(FILE.read_text("utf-8"))
SCHEMA = json.loads(FILE.with_name("user-context.schema.json").read_text())
PAGE = FILE.with_name("user-context.md").read_text("utf-8")


def valid(kind, value):
    jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{kind}"}).validate(value)


def verifier():
    trust = VECTORS["trust"]
    return Verifier(
        trust["issuer"], trust["audience"], FixedKeys(trust["jwks"]), clock=lambda: VECTORS["now"]
    )


def test_hub_and_sdk_compute_the_vectors_canonical_text_and_digest():
    method, params = VECTORS["method"], VECTORS["params"]
    raw = msgspec.json.decode(json.dumps(params), type=dict[str, msgspec.Raw])
    assert canonical({"method": method, "params": params}).decode() == VECTORS["canonical"]
    assert request_digest(method, params) == VECTORS["digest"]
    assert Digest(method, raw).finish() == VECTORS["digest"]
    noise = {"_meta": {"x": 1}, "requestState": "s"}
    assert request_digest(method, params | noise) == VECTORS["digest"]
    assert request_digest(method, params | {"inputResponses": {}}) != VECTORS["digest"]


async def test_the_assertion_that_holds_is_accepted_once_and_opens_its_credentials():
    holds, checks = VECTORS["holds"], verifier()
    found = await checks.verify(holds["assertion"], VECTORS["method"], VECTORS["params"])
    assert found.subject == holds["claims"]["sub"] and found.permissions == {"notes:write"}
    key = DecryptionKey(VECTORS["server_private_key"])
    assert key.open(found.credentials) == holds["credentials"]
    with pytest.raises(AssertionRefused, match="replayed"):
        await checks.verify(holds["assertion"], VECTORS["method"], VECTORS["params"])


@pytest.mark.parametrize("reason", VECTORS["refused"])
async def test_each_other_assertion_is_refused_for_its_reason(reason):
    token = VECTORS["refused"][reason]
    with pytest.raises(AssertionRefused) as refused:
        await verifier().verify(token, VECTORS["method"], VECTORS["params"])
    expected = re.split(r"[ ,]", reason)[0]
    assert refused.value.reason in {expected, "signature" if "cut" in reason else expected}


def test_what_holds_is_valid_by_the_schema():
    token = VECTORS["holds"]["assertion"]
    valid("meta", {"assertion": token})
    valid("header", jwt.get_unverified_header(token))
    valid("claims", peek_claims(token))
    with pytest.raises(jsonschema.ValidationError):
        valid("claims", peek_claims(VECTORS["refused"]["audience list"]))


def test_every_example_of_the_page_is_valid_by_the_schema():
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.S)]
    claims = [block for block in blocks if "sub" in block]
    settings = [block for block in blocks if "required" in block]
    assert claims and settings
    for block in claims:
        valid("claims", block)
    for block in settings:
        valid("settings", block)


def test_the_published_keys_are_those_of_the_vectors_module():
    assert VECTORS["hub_private_key"]["d"] == text(private("hub "))


@pytest.fixture
def published():
    """The vectors' key set at a URL of its own."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(VECTORS["trust"]["jwks"]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
        server.shutdown()
        thread.join()


def test_the_recipe_without_the_sdk_accepts_and_refuses_the_same(published, monkeypatch):
    recipe = re.search(r"## Without the SDK.*?```python\n(.*?)```", PAGE, re.S)
    assert recipe is not None and len(recipe[1].splitlines()) <= 40
    names = {}
    source = recipe[1].replace(
        'ISSUER + "/.well-known/mcphub-user-context/jwks.json"', repr(published)
    )
    exec(compile(source, "recipe", "exec"), names)
    user_of = names["user_of"]

    class Clock:
        @staticmethod
        def time():
            return VECTORS["now"]

    class Now(jwt.api_jwt.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(VECTORS["now"], tz)

    names["time"] = Clock
    monkeypatch.setattr(jwt.api_jwt, "datetime", Now)

    def params(token):
        meta = {"dev.mcphub/user-context": {"assertion": token}}
        return {**VECTORS["params"], "_meta": meta}

    holds = VECTORS["holds"]
    told = user_of(VECTORS["method"], params(holds["assertion"]), canonical)
    assert told == f"https://hub.example {holds['claims']['sub']}"
    for token in [holds["assertion"], *VECTORS["refused"].values(), ""]:
        with pytest.raises(jwt.PyJWTError):
            user_of(VECTORS["method"], params(token), canonical)
