"""`mcphub vault` and `mcphub audit`: the keys that seal credentials, and the log that shows who did what."""

import asyncio
import json
from typing import Annotated

import typer

from mcphub.audit.log import VAULT_ROTATED
from mcphub.cli.shell import Cli, Rows, command
from mcphub.cli.values import when
from mcphub.errors import Conflict, HubError, InvalidInput
from mcphub.ground import Ground, key_provider
from mcphub.vault.keys import FileKeys, KeysGone

_CLI = "cli"


def register_vault(app: typer.Typer) -> None:
    """Add the commands of `mcphub vault`."""
    command(app, "keys", example="mcphub vault keys")(list_keys)
    command(app, "rotate", example="mcphub vault rotate")(rotate)
    command(app, "reseal", example="mcphub vault reseal")(reseal)
    command(app, "retire", example="mcphub vault retire k_3f2a")(retire)


def register_audit(app: typer.Typer) -> None:
    """Add the commands of `mcphub audit`."""
    command(app, "list", example="mcphub audit list --limit 20")(list_events)
    command(app, "verify", example="mcphub audit verify")(verify)


async def list_keys(cli: Cli) -> None:
    """List the vault's keys by id, the sealing one first, and how many credentials each has sealed."""
    async with cli.ground() as ground:
        try:
            keys = await asyncio.to_thread(key_provider(ground.settings).keys)
        except KeysGone:
            keys = ()
        counts = await ground.vault.key_ids()
    ids = [key.id for key in keys]
    data = [
        {
            "id": id_,
            "seals": ids[:1] == [id_],
            "present": id_ in ids,
            "credentials": counts.get(id_, 0),
        }
        for id_ in dict.fromkeys([*ids, *counts])
    ]
    rows = [
        (
            entry["id"],
            "seals" if entry["seals"] else "opens" if entry["present"] else "MISSING",
            entry["credentials"],
        )
        for entry in data
    ]
    cli.show(data, Rows(("KEY", "STATE", "CREDENTIALS"), rows))


async def rotate(cli: Cli) -> None:
    """Make a new sealing key in the key file and seal every credential with it. Nothing restarts."""
    async with cli.ground() as ground:
        new = await asyncio.to_thread(_file(ground).rotate)
        count = await ground.vault.reseal()
        await ground.audit.write(_CLI, VAULT_ROTATED, new, {"resealed": count})
        old = [
            id_
            for id_ in [key.id for key in await asyncio.to_thread(_file(ground).keys)]
            if id_ != new
        ]
        cli.show(
            {"key": new, "resealed": count, "old": old},
            f"Key {new} seals now; {count} credentials were sealed anew. "
            f"When no backup needs the old ones any more: {'; '.join(f'mcphub vault retire {id_}' for id_ in old)}",
        )


async def reseal(cli: Cli) -> None:
    """Seal every credential with the first key; after you have put a new one in front yourself."""
    async with cli.ground() as ground:
        count = await ground.vault.reseal()
        cli.show({"resealed": count}, f"{count} credentials were sealed anew.")


async def retire(
    cli: Cli, key: Annotated[str, typer.Argument(metavar="KEY", help="Id of an old key.")]
) -> None:
    """Remove an old key from the key file for good. Refused while a credential still needs it."""
    async with cli.ground() as ground:
        needed = (await ground.vault.key_ids()).get(key, 0)
        if needed:
            raise Conflict(
                f"{needed} credentials are sealed with key {key}.",
                hint="First: mcphub vault reseal",
            )
        await asyncio.to_thread(_file(ground).retire, key)
        await ground.audit.write(_CLI, VAULT_ROTATED, key, {"retired": True})
        cli.show({"retired": key}, f"Key {key} is gone.")


async def list_events(
    cli: Cli,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
) -> None:
    """List what was done to users, keys, credentials and servers, newest first."""
    async with cli.ground() as ground:
        events = await ground.audit.recent(limit)
    data = [
        {
            "seq": event.seq,
            "at": event.at,
            "actor": event.actor,
            "action": event.action,
            "subject": event.subject,
            "detail": event.detail,
        }
        for event in events
    ]
    rows = [
        (
            event.seq,
            when(event.at),
            event.actor,
            event.action,
            event.subject,
            json.dumps(event.detail),
        )
        for event in events
    ]
    cli.show(
        data,
        Rows(("SEQ", "WHEN (UTC)", "ACTOR", "ACTION", "SUBJECT", "DETAIL"), rows, "Nothing yet."),
    )


async def verify(cli: Cli) -> None:
    """Check that no audit event was changed, removed or added; exit status 1 when one was."""
    async with cli.ground() as ground:
        found = await ground.audit.verify()
    if not found.intact:
        raise HubError(
            f"The audit log is not as it was written. {found.problem}",
            hint=f"The {found.events} events before it are intact.",
            code="audit_not_intact",
        )
    data = {"intact": True, "events": found.events, "head": found.head}
    cli.show(data, f"{found.events} events, all as they were written. Head: {found.head}")


def _file(ground: Ground) -> FileKeys:
    provider = key_provider(ground.settings)
    if not isinstance(provider, FileKeys):
        raise InvalidInput(
            f"The vault's keys come from {ground.settings.keys.source}: this command changes a key file only.",
            hint="Put a new key in front there, restart the hub, then: mcphub vault reseal",
        )
    return provider
