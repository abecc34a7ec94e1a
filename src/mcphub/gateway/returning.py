"""A server that speaks both eras, and asks its clients in the legacy one only, is spoken to in that.

Most servers were written before the modern era; a newer SDK makes them speak it, but what their tools ask
in the middle of a call fails there. The call has failed and may have done something already, so it is not
sent again: its caller is told to. Only the caller's own instance is replaced; others are when they fail.
"""

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import UpstreamFailed
from mcphub.gateway.plane import DataPlane
from mcphub.policy.model import Principal
from mcphub.spawn.dialects import asked_in_vain
from mcphub.spawn.instance import Instance
from mcphub.wire.codes import Era


def check_era(
    plane: DataPlane, caller: Principal, instance: Instance, spec: ServerSpec, said: bytes
) -> None:
    """Look at what a caller's call failed with; see the module.

    Raises:
        UpstreamFailed: The same call works with the next instance.
    """
    if instance.upstream.era is not Era.MODERN or not asked_in_vain(said):
        return
    if not plane.dialects.may_return(spec, instance.owner, instance.started_at):
        return
    plane.tasks.start("dialect.return", _replace(plane, caller, instance, spec))
    raise UpstreamFailed(
        f"Server '{spec.name}' asks its users in the way of earlier protocol versions. "
        "The hub speaks those with it from now on.",
        hint="Make the call again, unless what it did before it asked must not be done twice.",
    )


async def _replace(
    plane: DataPlane, caller: Principal, instance: Instance, spec: ServerSpec
) -> None:
    now, is_admin = plane.pool.now(), caller.is_admin
    await plane.dialects.go_back(spec, instance.owner, now, is_admin=is_admin)
    plane.pool.drain(lambda one: one is instance)
