"""Writes docs/reference/user-context-vectors.json: `python -m tests.sdk.vectors`.

The keys in it are made from fixed bytes and published: they are for these vectors and nothing else.
"""

import base64
import json
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mcphub.secret import Secret
from mcphub.vault.signing import encrypt
from mcphub_sdk.canonical import canonical, request_digest

FILE = Path(__file__).parents[2] / "docs" / "reference" / "user-context-vectors.json"
NOW = 1_795_000_010
METHOD = "tools/call"
PARAMS = {
    "name": "remember",
    "arguments": {
        "text": "Grüße \U0001f600\n",
        "count": 10.0,
        "big": 2**53 + 1,
        "b": None,
        "a": [1e-7],
    },
}


def text(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def private(label):
    return (label + "user context vectors, no secret").encode()[:32]


def make():
    hub, other = (Ed25519PrivateKey.from_private_bytes(private(x)) for x in ("hub ", "evil"))
    server = X25519PrivateKey.from_private_bytes(private("srv "))
    enc = {
        "kty": "OKP",
        "crv": "X25519",
        "kid": "server-1",
        "x": text(server.public_key().public_bytes_raw()),
    }
    jwk = {
        "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "hub-1",
        "x": text(hub.public_key().public_bytes_raw()),
    }  # fmt: skip
    claims = {
        "iss": "https://hub.example",
        "sub": "p_ftcz23duovatgfpitem5lmjxiwhci243",
        "aud": "https://notes.example/mcp",
        "iat": NOW - 10,
        "exp": NOW + 50,
        "jti": "r_8f14e45fceea167a0000002a",
        "request": {"method": METHOD, "name": "remember", "digest": request_digest(METHOD, PARAMS)},
        "install": "i_0c4t7q8h2m5x9r3w6y1z",
        "act": {"sub": "https://hub.example", "client": "example-client/1.4"},
        "groups": ["editors"],
        "permissions": ["notes:write"],
        "credentials": encrypt({"GITHUB_TOKEN": Secret("example-token")}, enc),
    }

    def signed(key=hub, typ="mcphub-user-context+jwt", kid="hub-1", **changed):
        merged = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        return jwt.encode(merged, key, "EdDSA", headers={"typ": typ, "kid": kid})

    other_digest = request_digest(METHOD, {**PARAMS, "arguments": {}})
    good = signed()
    head, body, signature = good.split(".")
    refused = {
        "signature": signed(key=other),
        "key": signed(key=other, kid="evil-1"),
        "type": signed(typ="JWT"),
        "issuer": signed(iss="https://evil.example"),
        "audience": signed(aud="https://other.example/mcp"),
        "audience list": signed(aud=["https://notes.example/mcp", "https://other.example/mcp"]),
        "expired": signed(iat=NOW - 100, exp=NOW - 40),
        "not-yet": signed(iat=NOW + 40, exp=NOW + 100),
        "lifetime": signed(exp=NOW - 10 + 301),
        "request digest": signed(request={"method": METHOD, "digest": other_digest}),
        "request method": signed(
            request={"method": "resources/read", "digest": request_digest(METHOD, PARAMS)}
        ),
        "malformed, no subject": signed(sub=None),
        "malformed, no request": signed(request=None),
        "malformed, cut": f"{head}.{body}.{signature[:40]}",
    }
    return {
        "about": "docs/reference/user-context.md, version 1. The private keys are published here: never use them.",
        "trust": {"issuer": claims["iss"], "audience": claims["aud"], "jwks": {"keys": [jwk]}},
        "hub_private_key": {**jwk, "d": text(private("hub "))},
        "server_private_key": {**enc, "d": text(private("srv "))},
        "now": NOW,
        "method": METHOD,
        "params": PARAMS,
        "canonical": canonical({"method": METHOD, "params": PARAMS}).decode(),
        "digest": request_digest(METHOD, PARAMS),
        "holds": {
            "assertion": good,
            "claims": claims,
            "credentials": {"GITHUB_TOKEN": "example-token"},
        },
        "refused": refused,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
