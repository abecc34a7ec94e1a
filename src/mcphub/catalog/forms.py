"""What stands in the files that servers take credentials from, for made-up values.

A template such as `"~/.gmail-mcp/credentials.json": "${USER_GMAIL}"` says nothing of the form, and a
server ends at its start when the text has another one than it expects. `shaped` writes the form out,
with the same slot in every secret place of it; a user's own value is never given a form.
"""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

SERVICE_ACCOUNT: Final = "GOOGLE_APPLICATION_CREDENTIALS"
"""Variable that names the key file of a Google service account."""
_ALONE: Final = re.compile(r"\s*(\$\{USER_[A-Z][A-Z0-9_]*\})\s*\Z")
_FAR: Final = 4_102_444_800  # the year 2100
_GOOGLE: Final = {
    "auth_uri": "https://accounts.google.com/o/oauth2/auth",
    "token_uri": "https://oauth2.googleapis.com/token",
    "redirect_uris": ["http://localhost"],
}


def shaped(files: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Return the templates of files for made-up values.

    Args:
        files: Path below the home -> template; anything but a single slot has a form already.
        env: Templates of the environment, which say by their names what a file is.
    """
    made: dict[str, str] = {}
    for place, text in files.items():
        alone = _ALONE.match(text)
        named = {name for name, value in env.items() if value == f"${{USER_HOME}}/{place}"}
        made[place] = text if alone is None else _form(PurePosixPath(place), alone[1], named)
    return made


def _form(place: PurePosixPath, slot: str, named: set[str]) -> str:
    name = place.name.lower()
    if SERVICE_ACCOUNT in named or ("service" in name and place.suffix == ".json"):
        return json.dumps(_service_account(slot), indent=1)
    if place.parts[-2:] == (".kube", "config") or "kubeconfig" in name or "KUBECONFIG" in named:
        return json.dumps(_kubeconfig(slot), indent=1)  # JSON is YAML
    if place.parts[-2:] == (".aws", "credentials"):
        return f"[default]\naws_access_key_id = {slot}\naws_secret_access_key = {slot}\n"
    if name in {".netrc", "_netrc"}:
        return f"machine api.example.com login someone password {slot}\n"
    if name == ".pgpass":
        return f"*:*:*:*:{slot}\n"
    if place.suffix == ".json":
        return json.dumps(_tokens(slot), indent=1)
    return slot


def _tokens(slot: str) -> dict[str, object]:
    """An OAuth client and an authorization, as the libraries of several languages keep them."""
    client = {"client_id": "someone", "client_secret": slot, **_GOOGLE}
    return {
        "type": "authorized_user",
        **dict.fromkeys(("token", "access_token", "refresh_token", "api_key", "apiKey"), slot),
        "token_type": "Bearer",
        "scope": "",
        "scopes": [],
        "expiry": "2100-01-01T00:00:00Z",
        "expiry_date": _FAR * 1000,
        "expires_at": _FAR,
        "client_id": "someone",
        "client_secret": slot,
        "token_uri": _GOOGLE["token_uri"],
        "installed": client,
    }


def _service_account(slot: str) -> dict[str, object]:
    return {
        "type": "service_account",
        "project_id": "someones-project",
        "private_key_id": slot,
        "private_key": _private_key(),
        "client_email": "someone@someones-project.iam.example",
        "client_id": "1",
        "token_uri": _GOOGLE["token_uri"],
    }


def _kubeconfig(slot: str) -> dict[str, object]:
    cluster = {"server": "https://east.clusters.example.com"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "east",
        "clusters": [{"name": "east", "cluster": cluster}],
        "contexts": [{"name": "east", "context": {"cluster": "east", "user": "someone"}}],
        "users": [{"name": "someone", "user": {"token": slot}}],
    }


@functools.cache
def _private_key() -> str:
    """A key that nobody knows, for libraries that read it at once."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def whole_files(files: Mapping[str, str]) -> dict[str, str]:
    """Return slot -> path below the home, for the slots whose value is a whole file."""
    found = ((_ALONE.match(text), place) for place, text in files.items())
    return {alone[1][len("${USER_") : -1]: place for alone, place in found if alone is not None}
