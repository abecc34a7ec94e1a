"""The hub's public keys: given with the settings, or fetched from the hub and kept.

Only Ed25519 keys count (RFC 8037). A key id that is not known yet lets `HubKeys` fetch once more, so
a rotation at the hub fails no call; how often is bounded, whatever ids arrive.
"""

import ipaddress
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import anyio
import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError

JWKS_PATH: Final = "/.well-known/mcphub-user-context/jwks.json"
_MAX_BYTES: Final = 64 * 1024
_FRESH_S: Final = 3600.0
_WINDOW_S: Final = 60.0
_TRIES: Final = 6


class KeysUnavailable(Exception):
    """The hub's keys cannot be had now."""


class KeySource(Protocol):
    """Where public keys come from."""

    async def key(self, key_id: str) -> PyJWK | None:
        """Return the key of this id, or None when the hub has no such key.

        Raises:
            KeysUnavailable: They cannot be fetched.
        """
        ...


class FixedKeys:
    """Keys that came with the settings, as a JWK set."""

    def __init__(self, jwks: Mapping[str, Any]) -> None:
        self._keys = keys_of(jwks)
        if not self._keys:
            raise ValueError("the JWK set holds no Ed25519 key")

    async def key(self, key_id: str) -> PyJWK | None:
        """Return the key of this id."""
        return self._keys.get(key_id)


class HubKeys:
    """Keys fetched from a hub; an id that is not known yet is looked up, at most six times a minute.

    Args:
        url: Of the hub or of its JWK set; https, or http on loopback.
        clock: Seconds, for how long keys are kept.
    """

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and _loopback(parts.hostname)):
            raise ValueError("the hub's keys are fetched by https, or by http on loopback only")
        self._url = url if parts.path.endswith(".json") else url.rstrip("/") + JWKS_PATH
        self._clock = clock
        self._keys: dict[str, PyJWK] = {}
        self._fetched = -_FRESH_S
        self._tries: list[float] = []
        self._lock = anyio.Lock()

    async def key(self, key_id: str) -> PyJWK | None:
        """Return the key of this id; fetches the set when it is old or has no such id."""
        if key_id not in self._keys or self._clock() - self._fetched >= _FRESH_S:
            async with self._lock:
                now = self._clock()
                known = key_id in self._keys and now - self._fetched < _FRESH_S
                self._tries = [tried for tried in self._tries if now - tried < _WINDOW_S]
                if not known and len(self._tries) < _TRIES:
                    self._tries.append(now)
                    await self._fetch(now)
        return self._keys.get(key_id)

    async def _fetch(self, now: float) -> None:
        try:
            found = keys_of(json.loads(await self._get()))
            if not found:
                raise KeysUnavailable("The hub publishes no key.")
            self._keys, self._fetched = found, now
        except (httpx2.HTTPError, ValueError) as error:
            if not self._keys:
                raise KeysUnavailable("The hub's keys cannot be fetched.") from error
        except KeysUnavailable:
            if not self._keys:
                raise

    async def _get(self) -> bytes:
        async with (
            httpx2.AsyncClient(timeout=10, trust_env=False) as http,
            http.stream("GET", self._url) as answer,
        ):
            if answer.status_code != 200:
                raise KeysUnavailable(f"The hub answered HTTP {answer.status_code}.")
            body = b""
            async for part in answer.aiter_bytes():
                body += part
                if len(body) > _MAX_BYTES:
                    raise KeysUnavailable("The hub's JWK set is too large.")
            return body


def keys_of(jwks: Mapping[str, Any]) -> dict[str, PyJWK]:
    """Return the Ed25519 signature keys of a JWK set by id; others do not count."""
    found: dict[str, PyJWK] = {}
    listed = jwks.get("keys") if isinstance(jwks, Mapping) else None
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, Mapping) or "d" in entry:
            continue
        usable = entry.get("kty") == "OKP" and entry.get("crv") == "Ed25519"
        if usable and entry.get("use", "sig") == "sig" and isinstance(entry.get("kid"), str):
            try:
                found[entry["kid"]] = PyJWK.from_dict(dict(entry), algorithm="EdDSA")
            except PyJWTError:
                continue
    return found


def _loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
