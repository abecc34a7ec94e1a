"""The control API: what the administrator's command line asks of a running hub.

Served on a unix socket of mode 0600 in the hub's directory: whoever can open it is the
administrator, so there is no further authentication, and it is never mounted on a TCP port. Not
here: administration of users, keys and servers, which the command line does on the database, with
or without a running hub.
"""

from collections.abc import Mapping
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcphub.api.replies import guarded, reply


class Control(Protocol):
    """What a running hub offers its administrator. `app` implements it."""

    async def refresh(self) -> int:
        """Read the database and the settings anew; return the revision that is now in memory.

        When it returns, what was revoked before the call is without effect.
        """
        ...

    def status(self) -> Mapping[str, object]:
        """Return figures of the hub as a whole; JSON values only."""
        ...

    def instances(self) -> list[dict[str, object]]:
        """Return the running instances; JSON values only."""
        ...

    def unavailable(self) -> list[dict[str, str]]:
        """Return servers that could not be listed last: `server`, `user` (id or "" for all), `reason`."""
        ...

    async def stop_instance(self, instance_id: str) -> None:
        """Stop one instance; returns when its processes are gone.

        Raises:
            NotFound: No such instance.
        """
        ...

    def stderr(self, instance_id: str) -> list[str]:
        """Return what an instance wrote to stderr lately, redacted, oldest first.

        Raises:
            NotFound: No such instance.
        """
        ...

    def tools(self, instance_id: str) -> list[str] | None:
        """Return the names of the tools that an instance itself listed; None when it was not asked.

        Raises:
            NotFound: No such instance.
        """
        ...


def control_app(control: Control) -> Starlette:
    """Return the ASGI app for the control socket."""

    async def status(_: Request) -> Response:
        return reply(dict(control.status()))

    async def instances(_: Request) -> Response:
        return reply({"instances": control.instances(), "unavailable": control.unavailable()})

    async def stderr(request: Request) -> Response:
        return reply({"lines": control.stderr(request.path_params["id"])})

    async def tools(request: Request) -> Response:
        return reply({"tools": control.tools(request.path_params["id"])})

    async def stop(request: Request) -> Response:
        await control.stop_instance(request.path_params["id"])
        return Response(status_code=204)

    async def refresh(_: Request) -> Response:
        return reply({"revision": await control.refresh()})

    return Starlette(
        routes=[
            Route("/status", guarded(status), methods=["GET"]),
            Route("/instances", guarded(instances), methods=["GET"]),
            Route("/instances/{id}/stderr", guarded(stderr), methods=["GET"]),
            Route("/instances/{id}/tools", guarded(tools), methods=["GET"]),
            Route("/instances/{id}", guarded(stop), methods=["DELETE"]),
            Route("/refresh", guarded(refresh), methods=["POST"]),
        ]
    )
