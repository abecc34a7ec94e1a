"""`GET /metrics`: the hub's counters for Prometheus, for administrators."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mcphub.api.callers import caller_of
from mcphub.api.replies import guarded
from mcphub.errors import Denied
from mcphub.policy.model import Principal, Role

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_route(
    authenticate: Callable[[str], Principal | None], text: Callable[[], str]
) -> Route:
    """Return the route; `text` makes the answer when it is asked for."""

    async def metrics(request: Request) -> Response:
        if caller_of(request, authenticate).role is not Role.ADMIN:
            raise Denied(
                "Metrics are for administrators.", hint="Use the API key of an administrator."
            )
        return Response(text(), media_type=_TYPE, headers={"Cache-Control": "no-store"})

    return Route("/metrics", guarded(metrics), methods=["GET"])
