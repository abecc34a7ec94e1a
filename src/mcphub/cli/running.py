"""Clients of a hub that runs: its control socket, and the user API by URL and key.

What they raise are errors of the hub, so that the command line shows the hub's own words.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from mcphub.cli.connect import KeyProblem, read_key
from mcphub.errors import HubError, InvalidInput, Unauthenticated, Unavailable

if TYPE_CHECKING:
    import httpx2

_ENDPOINT: Final = re.compile(r"/(?:mcp|sse)(?:/[^/]*)?/?$")
_REFUSED: Final = "The hub does not accept this API key: it is unknown, expired or revoked."
_NEW_KEY: Final = "Ask an administrator for a new one: mcphub key create USER"
_REFRESH_S = 5.0
_CONTROL_S = 30.0
_USER_S = 30.0


class NotRunning(Unavailable):
    """No hub runs in the directory."""

    code = "not_running"


class RunningHub:
    """The control API of the hub whose socket is at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def refresh(self) -> bool:
        """Make the hub read everything anew; False when no hub runs.

        Raises:
            Unavailable: There is a hub and it does not answer.
        """
        try:
            await self._request("POST", "/refresh", _REFRESH_S)
        except NotRunning:
            return False
        return True

    async def get(self, path: str) -> Any:
        """Return the JSON of one path.

        Raises:
            NotRunning: No hub runs.
            HubError: What the hub answered.
        """
        return await self._request("GET", path, _CONTROL_S)

    async def delete(self, path: str) -> None:
        """Delete what is at a path. Raises as `get` does."""
        await self._request("DELETE", path, _CONTROL_S)

    async def _request(self, method: str, path: str, timeout_s: float) -> Any:
        import httpx2  # noqa: PLC0415  --help can do without

        transport = httpx2.AsyncHTTPTransport(uds=str(self._path))
        try:
            async with httpx2.AsyncClient(
                transport=transport, base_url="http://hub", timeout=timeout_s, trust_env=False
            ) as client:
                return _answer(await client.request(method, path))
        except httpx2.ConnectError:
            raise NotRunning("The hub is not running.", hint="Start it: mcphub serve") from None
        except httpx2.HTTPError:
            raise Unavailable("The running hub does not answer its control socket.") from None


class UserHub:
    """The user API of a hub, as one of its users.

    Args:
        url: URL of the hub, also that of one of its endpoints. What is before `/mcp` is the prefix that a
            proxy gives the hub.
        key_file: File with the API key; MCPHUB_KEY or the default file when not given.

    Raises:
        InvalidInput: The URL cannot be used.
        Unauthenticated: There is no key.
    """

    def __init__(self, url: str, key_file: Path | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise InvalidInput("The URL cannot be used.", hint="Write http://127.0.0.1:8765")
        prefix = _ENDPOINT.sub("", parts.path).rstrip("/")
        self._base = f"{parts.scheme}://{parts.netloc}{prefix}"
        try:
            self._key = read_key(str(key_file) if key_file is not None else None)
        except KeyProblem as problem:
            raise Unauthenticated(str(problem)) from None

    async def servers(self) -> list[dict[str, Any]]:
        """Return the servers that the user may use."""
        return (await self._request("GET", "/api/me/servers"))["servers"]

    async def credentials(self) -> list[dict[str, Any]]:
        """Return what the user has set."""
        return (await self._request("GET", "/api/me/credentials"))["credentials"]

    async def set_credential(self, server: str, slot: str, value: str) -> None:
        """Set one value."""
        await self._request("PUT", _slot_path(server, slot), {"value": value})

    async def delete_credential(self, server: str, slot: str) -> dict[str, Any]:
        """Delete one value; of an authorization, whether its issuer knows (`revoked`)."""
        return await self._request("DELETE", _slot_path(server, slot)) or {}

    async def begin_connection(self, server: str, return_to: str) -> dict[str, Any]:
        """Begin to connect the user's account; returns the page to open and until when."""
        path = f"/api/me/connections/{quote(server, safe='')}"
        return await self._request("POST", path, {"return_to": return_to})

    async def confirm_connection(self, server: str, confirmation: str) -> None:
        """End it with what the browser was handed."""
        path = f"/api/me/connections/{quote(server, safe='')}/confirm"
        await self._request("POST", path, {"confirmation": confirmation})

    async def _request(self, method: str, path: str, body: object = None) -> Any:
        import httpx2  # noqa: PLC0415  as above

        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            async with httpx2.AsyncClient(
                base_url=self._base, timeout=_USER_S, headers=headers, trust_env=False
            ) as client:
                if body is None:
                    return _answer(await client.request(method, path))
                return _answer(await client.request(method, path, json=body))
        except HubError as refused:
            if refused.code == Unauthenticated.code:
                raise Unauthenticated(_REFUSED, hint=_NEW_KEY) from None
            raise
        except httpx2.HTTPError as error:
            raise Unavailable(
                f"The hub at {self._base} cannot be reached ({error or type(error).__name__}).",
                hint="Is it running, and is the URL right?",
            ) from None


def _slot_path(server: str, slot: str) -> str:
    return f"/api/me/credentials/{quote(server, safe='')}/{quote(slot, safe='')}"


def _answer(response: "httpx2.Response") -> Any:
    """Return the JSON of an answer, or raise the error that it tells."""
    try:
        body = response.json() if response.content else None
    except ValueError:
        body = None
    if response.is_success:
        return body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        raise HubError(
            body["message"], hint=str(body.get("hint", "")), code=str(body.get("code", "error"))
        )
    raise HubError(f"The hub answered with HTTP status {response.status_code}.")
