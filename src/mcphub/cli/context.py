"""`mcphub context`: the keys that sign user contexts, and what a server is told of a user."""

import asyncio
import time
from typing import Annotated, Final

import typer

from mcphub.audit.log import CONTEXT_KEYS_CHANGED
from mcphub.catalog.identity import header_of
from mcphub.cli.shell import Cli, Rows, command
from mcphub.errors import Conflict, NotFound
from mcphub.ground import context_keys
from mcphub.policy.model import Transport

_CLI: Final = "cli"
_OVERLAP_S: Final = 300
"""Longest validity of an assertion: an old key verifies for that long after a rotation."""


def register(app: typer.Typer) -> None:
    """Add the commands of `mcphub context`."""
    command(app, "show", example="mcphub context show anna notes")(show)
    command(app, "keys", example="mcphub context keys")(keys)
    command(app, "rotate", example="mcphub context rotate")(rotate)
    command(app, "retire", example="mcphub context retire k3f2a")(retire)


async def show(
    cli: Cli,
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of a user.")],
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Name of a server.")],
) -> None:
    """Show what a server is told of a user: issuer, audience, the user's id there, groups, permissions."""
    async with cli.ground() as ground:
        spec = ground.live.current.specs.get(server)
        if spec is None:
            raise NotFound(f"There is no server '{server[:64]}'.", hint="See: mcphub server list")
        principal = await ground.directory.principal_of(user)
        context = spec.user_context
        if context is None:
            text = f"'{server}' is told nothing about its users."
            cli.show(
                {"server": server, "told": False},
                f'{text} Set "userAware": true or "userContext" if it keeps them apart by itself.',
            )
            return
        subject = (
            ground.signer.subject(principal.user_id, context.audience)
            if context.pairwise
            else principal.user_id
        )
        data = {
            "server": server,
            "told": True,
            "send": context.send,
            "issuer": ground.signer.issuer,
            "audience": context.audience,
            "subject": subject,
            "groups": context.groups_of(principal.groups),
            "permissions": context.permissions_of(principal.groups),
            "credentials": [
                slot if context.encrypt_to is not None else header_of(slot)
                for slot in spec.request_slots
            ],
            "encrypted": context.encrypt_to is not None,
            "headers": spec.transport is Transport.HTTP,
        }
    rows = [(name, _text(value)) for name, value in data.items()]
    cli.show(data, Rows(("WHAT", "VALUE"), rows))


async def keys(cli: Cli) -> None:
    """List the signing keys by id; the first one signs, all are published."""
    async with cli.ground() as ground:
        found = await asyncio.to_thread(context_keys(ground.settings).keys)
    data = [{"id": key.id, "signs": number == 0} for number, key in enumerate(found)]
    rows = [(entry["id"], "signs" if entry["signs"] else "verifies") for entry in data]
    cli.show(data, Rows(("KEY", "STATE"), rows))


async def rotate(cli: Cli) -> None:
    """Make a new signing key. A running hub uses it within a second; old ones stay published."""
    async with cli.ground() as ground:
        file = context_keys(ground.settings)
        new = await asyncio.to_thread(file.rotate)
        await ground.audit.write(_CLI, CONTEXT_KEYS_CHANGED, new, {"rotated": True})
        old = [key.id for key in await asyncio.to_thread(file.keys) if key.id != new]
    cli.show(
        {"key": new, "old": old},
        f"Key {new} signs now. In five minutes nothing needs the old ones any more: "
        f"{'; '.join(f'mcphub context retire {id_}' for id_ in old)}",
    )


async def retire(
    cli: Cli,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id of an old key.")],
    now: Annotated[
        bool, typer.Option("--now", help="At once, although calls in flight may be refused.")
    ] = False,
) -> None:
    """Remove an old signing key for good: what it signed does not verify any more."""
    async with cli.ground() as ground:
        kept = context_keys(ground.settings)
        if key not in {known.id for known in await asyncio.to_thread(kept.keys)}:
            raise NotFound("There is no signing key of this id.", hint="See: mcphub context keys")
        age_s = time.time() - ground.settings.context_key_file.stat().st_mtime  # noqa: TID251  a file's age
        if age_s < _OVERLAP_S and not now:
            raise Conflict(
                f"The keys changed {age_s:.0f} s ago; what this key signed may be in use for {_OVERLAP_S} s.",
                hint="Wait, or give --now if the key is in wrong hands.",
            )
        await asyncio.to_thread(kept.retire, key)
        await ground.audit.write(_CLI, CONTEXT_KEYS_CHANGED, key, {"retired": True})
    cli.show({"retired": key}, f"Key {key} is gone.")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
