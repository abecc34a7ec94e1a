"""Waits with a caller for a server to start, and tells that it is being started.

A start takes seconds, and what the call was permitted by may end meanwhile: then it goes no further.

Only a caller that wants progress is told, and only when the start takes longer than `PATIENCE_S`. The
numbers stay far below 1, so that what the server itself reports later still increases (MCP
basic/utilities/progress).
"""

import asyncio
from typing import Final

import msgspec

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import NotFound
from mcphub.gateway.calls import Call
from mcphub.gateway.plane import DataPlane, check_tool, lease, ready_instance
from mcphub.policy.model import Permit
from mcphub.spawn.instance import Instance
from mcphub.wire import envelope

PATIENCE_S: Final = 1.0
_EVERY_S: Final = 2.0
_STEP: Final = 1e-6


async def leased(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit) -> Instance:
    """Return the caller's instance as `plane.lease` does, with progress while it is being started.

    Raises:
        HubError: As `plane.lease`, or the call is permitted no more.
    """
    known = plane.access.generation
    instance = await _leased(plane, call, spec, permit)
    try:
        check_permit(plane, call, permit, known)
    except BaseException:
        plane.pool.release(instance)
        raise
    return instance


def check_permit(plane: DataPlane, call: Call, permit: Permit, known: int) -> None:
    """Refuse a call whose permit would not be given any more, when something was waited for.

    Args:
        plane: Services.
        call: The call.
        permit: As it was given.
        known: Generation of `Access` at which it was.

    Raises:
        NotFound, Denied: As for a call that comes now.
    """
    if known == plane.access.generation:
        return
    now = plane.access.renewed(permit)
    if now is None:
        raise NotFound(
            f"You may not use server '{permit.server}' any more.",
            hint="Your API key, your groups or the hub's settings have changed meanwhile.",
        )
    if call.method == "tools/call":
        check_tool(now, call.name)


async def _leased(plane: DataPlane, call: Call, spec: ServerSpec, permit: Permit) -> Instance:
    if not call.progress_token or ready_instance(plane, call, spec, permit) is not None:
        return await lease(plane, call, spec, permit)
    waiting = asyncio.ensure_future(lease(plane, call, spec, permit))
    try:
        patience, step = PATIENCE_S, 0
        while not (await asyncio.wait([waiting], timeout=patience))[0]:
            patience, step = _EVERY_S, step + 1
            await call.emit(_progress(call, spec, step))
        return waiting.result()
    except BaseException:
        if not waiting.cancel() and not waiting.exception():
            plane.pool.release(waiting.result())  # it came, and nobody is there any more
        raise


def _progress(call: Call, spec: ServerSpec, step: int) -> bytes:
    params: envelope.Members = {
        "progressToken": msgspec.Raw(call.progress_token),
        "progress": envelope.raw(step * _STEP),
        "message": envelope.raw(f"Starting {spec.title or spec.name}…"),
    }
    return envelope.notification("notifications/progress", envelope.join(params))
