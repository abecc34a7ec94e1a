"""`mcphub credential`: a user's own values, set by the administrator here or by the user over HTTP.

With `--user` the command works on the hub's directory; without it, it is one user's request to a
hub by URL and API key, and needs no access to the hub's machine. A value is never an argument: other
accounts could read it in the list of processes, and the shell would keep it.
"""

import getpass
import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, BinaryIO

import typer

from mcphub.api.user import settable_slot
from mcphub.audit.log import CREDENTIAL_DELETED, CREDENTIAL_SET
from mcphub.catalog.guide import guide_of
from mcphub.cli.accounts import DEFAULT_URL, connect_account
from mcphub.cli.running import UserHub
from mcphub.cli.shell import CLI, Cli, Rows, command
from mcphub.cli.values import when
from mcphub.cli.verdicts import spec_of
from mcphub.errors import InvalidInput, NotFound, Unauthenticated
from mcphub.identity.model import did_you_mean
from mcphub.secret import OAUTH_SLOT, Secret

_LARGEST = 48 * 1024

Server = Annotated[str, typer.Argument(metavar="SERVER", help="Name of the server.")]
Slot = Annotated[str, typer.Argument(metavar="SLOT", help="Name of the slot.")]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="Whose (as administrator, on the hub's machine)."),
]
FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from-file", metavar="FILE", help="Read the value from a file, such as a JSON or PEM key."
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help=f"The hub, as its user (default: {DEFAULT_URL})."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option("--key-file", metavar="FILE", help="Your API key (default: MCPHUB_KEY)."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of `mcphub credential`."""
    command(app, "set", example="mcphub credential set github GITHUB_TOKEN --user anna")(
        set_credential
    )
    command(app, "connect", example="mcphub credential connect notes")(connect_account)
    command(app, "list", example="mcphub credential list --user anna")(list_credentials)
    command(app, "delete", example="mcphub credential delete github GITHUB_TOKEN --user anna")(
        delete_credential
    )
    command(app, "guide", example="mcphub credential guide github")(guide_credential)


async def set_credential(
    cli: Cli,
    server: Server,
    slot: Slot,
    user: User = None,
    from_file: FromFile = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Set a credential. The value is asked for without echo, or read from a file or standard input.

    It takes effect with the user's next call; running instances with the old value are replaced.
    """
    remote = _remote(user, url, key_file)
    told = {"server": server, "slot": slot, "set": True}
    if remote is not None:
        await remote.set_credential(server, slot, _value(server, slot, from_file))
        cli.show(told, f"Set {slot} of {server}.")
        return
    async with cli.ground() as ground:
        spec = spec_of(ground, server)
        settable_slot(spec, slot)
        principal = await ground.directory.principal_of(str(user))
        value = Secret(_value(server, slot, from_file))
        async with ground.db.together():
            await ground.vault.put(principal, server, slot, value)
            detail = {"server": server, "slot": slot}
            await ground.audit.write(CLI, CREDENTIAL_SET, principal.user_id, detail)
        await cli.applied()
        cli.show(told, f"Set {slot} of {server} for {principal.user_name}.")


async def list_credentials(
    cli: Cli, user: User = None, url: Url = None, key_file: KeyFile = None
) -> None:
    """List which credentials are set, and which a server still needs. Values are never shown."""
    remote = _remote(user, url, key_file)
    missing: list[tuple[str, str]]
    if remote is not None:
        stored = await remote.credentials()
        missing = [
            (server["name"], slot)
            for server in await remote.servers()
            for slot in server["missing"]
        ]
    else:
        async with cli.ground() as ground:
            principal = await ground.directory.principal_of(str(user))
            stored = [
                {"server": info.server, "slot": info.slot, "updated_at": info.updated_at}
                for info in await ground.vault.listing(principal)
            ]
            done = {(info["server"], info["slot"]) for info in stored}
            missing = [
                (spec.name, slot)
                for spec in ground.live.current.specs.values()
                for slot in spec.slot_names
                if (spec.name, slot) not in done
                and (principal.is_admin or spec.groups & principal.groups)
            ]
    data: list[dict[str, Any]] = [dict(info) | {"set": True} for info in stored]
    data += [
        {"server": name, "slot": slot, "updated_at": None, "set": False} for name, slot in missing
    ]
    data.sort(key=lambda entry: (entry["server"], entry["slot"]))
    rows = [
        (
            entry["server"],
            entry["slot"],
            "set" if entry["set"] else "missing",
            when(entry["updated_at"]),
        )
        for entry in data
    ]
    cli.show(
        data, Rows(("SERVER", "SLOT", "STATE", "SINCE (UTC)"), rows, "No server needs credentials.")
    )


async def delete_credential(
    cli: Cli,
    server: Server,
    slot: Slot,
    user: User = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Delete a credential. Calls that need it are refused from now on."""
    remote = _remote(user, url, key_file)
    told: dict[str, Any] = {"server": server, "slot": slot, "set": False}
    if remote is not None:
        told |= await remote.delete_credential(server, slot)
        cli.show(told, f"Deleted {slot} of {server}.{_revocation(told)}")
        return
    async with cli.ground() as ground:
        principal = await ground.directory.principal_of(str(user))
        there = {(info.server, info.slot) for info in await ground.vault.listing(principal)}
        if (server, slot) not in there:
            raise NotFound(
                f"{principal.user_name} has not set {slot[:64]} for '{server[:64]}'.",
                hint=f"Run: mcphub credential list --user {quote(principal.user_name)}",
            )
        if slot == OAUTH_SLOT:
            told["revoked"] = bool(await ground.grants.end(principal.user_id, server, CLI))
        else:
            detail = {"server": server, "slot": slot}
            async with ground.db.together():
                await ground.vault.delete(principal, server, slot)
                await ground.audit.write(CLI, CREDENTIAL_DELETED, principal.user_id, detail)
        await cli.applied()
        cli.show(told, f"Deleted {slot} of {server} for {principal.user_name}.{_revocation(told)}")


def _revocation(told: dict[str, Any]) -> str:
    """Say what became of an authorization where it was given."""
    if "revoked" not in told:
        return ""
    if told["revoked"]:
        return " The authorization was revoked where it was given."
    return (
        " Its authorization server could not be told: end it in your account there too, "
        "or it lives until it expires."
    )


async def guide_credential(
    cli: Cli,
    server: Annotated[str | None, typer.Argument(metavar="[SERVER]")] = None,
    slot: Annotated[str | None, typer.Argument(metavar="[SLOT]")] = None,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Tell what a credential is, the least rights it needs, and where to make it."""
    found: list[dict[str, Any]] = []
    servers: list[str] = []
    if url is not None:
        for entry in await UserHub(url, key_file).servers():
            servers.append(entry["name"])
            found += [{"server": entry["name"]} | wanted for wanted in entry["slots"]]
    else:
        async with cli.ground("As a user of somebody else's hub, give --url.") as ground:
            if server is not None:
                spec_of(ground, server)
            for spec in ground.live.current.specs.values():
                servers.append(spec.name)
                found += [
                    {"server": spec.name, "slot": name, "guide": dict(guide_of(spec, name))}
                    for name in spec.slot_names
                ]
    found = [
        {"server": entry["server"], "slot": entry["slot"], "guide": entry["guide"]}
        for entry in found
        if server in (None, entry["server"]) and slot in (None, entry["slot"])
    ]
    if server is not None and server not in servers:
        raise NotFound(
            f"There is no server '{server[:64]}' for you.", hint=did_you_mean(server, servers)
        )
    if slot is not None and not found:
        raise NotFound(
            f"Server '{server}' has no credential slot '{slot[:64]}'.",
            hint=f"Run: mcphub credential guide {server}",
        )
    told = [
        f"{entry['server']} {entry['slot']}\n"
        + "\n".join(f"  {name}: {_text(value)}" for name, value in entry["guide"].items() if value)
        for entry in found
    ]
    cli.show(found, "\n\n".join(told) if told else _none(server))


def _none(server: str | None) -> str:
    return f"{server} needs no credentials." if server else "No server needs credentials."


def _remote(user: str | None, url: str | None, key_file: Path | None) -> UserHub | None:
    """Return the hub to ask as its user; None when the administrator works on the directory.

    Raises:
        InvalidInput: Both ways are named at once.
    """
    if user is not None and (url is not None or key_file is not None):
        raise InvalidInput(
            "--user works on the hub's directory; --url works as yourself.",
            hint="Give one of both.",
        )
    if user is not None:
        return None
    try:
        return UserHub(url or DEFAULT_URL, key_file)
    except Unauthenticated as error:
        raise Unauthenticated(
            error.message, hint="As administrator on the hub's machine, give --user NAME."
        ) from None


def _value(server: str, slot: str, source: Path | None) -> str:
    """Return the value of a file; else from a prompt without echo, or from stdin when that is no terminal.

    Raises:
        InvalidInput: It is empty, too large or no text, or the file cannot be read.
    """
    if source is not None:
        try:
            with source.open("rb") as file:
                value = _text_of(file)
        except OSError as error:
            raise InvalidInput(
                f"{str(source)[:200]} cannot be read: {error.strerror}.", hint="Nothing was set."
            ) from None
    elif sys.stdin.isatty():
        value = getpass.getpass(f"{slot} of {server}: ")
    else:
        value = _text_of(sys.stdin.buffer)
    if not value or "\0" in value:
        raise InvalidInput("The value is empty or holds a NUL character.", hint="Nothing was set.")
    return value


def _text_of(file: BinaryIO) -> str:
    """Return the text of a file: as it is when it has several lines, as keys have; else the line alone."""
    data = file.read(_LARGEST + 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput("The value is no UTF-8 text.", hint="Nothing was set.") from None
    if len(data) > _LARGEST:
        raise InvalidInput(f"The value is larger than {_LARGEST} bytes.", hint="Nothing was set.")
    line = text.removesuffix("\n").removesuffix("\r")
    return text if "\n" in line else line


def _text(value: object) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, list) else str(value)
