"""`mcphub user`, `mcphub group`, `mcphub key`: who there is and what proves it."""

from dataclasses import asdict
from operator import itemgetter
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcphub.audit import log
from mcphub.cli import people_file
from mcphub.cli.running import NotRunning
from mcphub.cli.shell import CLI, Cli, Rows, Yes, command
from mcphub.cli.values import expiry, when
from mcphub.errors import HubError, NotFound
from mcphub.offboarding import Destroyed, destroy
from mcphub.policy.model import EVERYONE, Role

if TYPE_CHECKING:
    from mcphub.ground import Ground
    from mcphub.identity.model import KeyInfo, User

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the user.")]
GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="WHEN", help="30d, 12h or a date 2027-01-31.")
]


def register_users(app: typer.Typer) -> None:
    """Add the commands of `mcphub user`."""
    command(app, "add", example="mcphub user add anna")(add_user)
    command(app, "import", example=people_file.EXAMPLE)(people_file.import_users)
    command(app, "list", example="mcphub user list")(list_users)
    command(app, "show", example="mcphub user show anna")(show_user)
    command(app, "role", example="mcphub user role anna admin")(set_role)
    command(app, "disable", example="mcphub user disable anna")(disable_user)
    command(app, "enable", example="mcphub user enable anna")(enable_user)
    command(app, "remove", example="mcphub user remove anna")(remove_user)


def register_groups(app: typer.Typer) -> None:
    """Add the commands of `mcphub group`."""
    command(app, "add", example="mcphub group add data-team")(add_group)
    command(app, "list", example="mcphub group list")(list_groups)
    command(app, "remove", example="mcphub group remove data-team")(remove_group)
    command(app, "join", example="mcphub group join data-team anna --expires 30d")(join_group)
    command(app, "leave", example="mcphub group leave data-team anna")(leave_group)


def register_keys(app: typer.Typer) -> None:
    """Add the commands of `mcphub key`."""
    command(app, "create", example="mcphub key create anna --label laptop --expires 90d")(
        create_key
    )
    command(app, "list", example="mcphub key list --user anna")(list_keys)
    command(app, "revoke", example="mcphub key revoke mcphub_Ab3dE")(revoke_key)


async def add_user(
    cli: Cli,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Display name, unique.")],
    admin: Annotated[bool, typer.Option("--admin", help="May administer the hub.")] = False,
) -> None:
    """Add a user."""
    async with cli.ground() as ground:
        async with ground.db.together():
            user = await ground.directory.add_user(name, Role.ADMIN if admin else Role.USER)
            await ground.audit.write(CLI, log.USER_CREATED, user.id, {"name": user.name})
        await cli.applied()
        cli.show(_user(user), f"Added {user.name} ({user.id}).")
        cli.note(f"Next: mcphub key create {quote(user.name)}")


async def list_users(cli: Cli) -> None:
    """List all users."""
    async with cli.ground() as ground:
        users = await ground.directory.users()
        groups = await _groups_of(ground)
    data = [_user(user) | {"groups": groups.get(user.id, [])} for user in users]
    rows = [
        (
            user.name,
            user.role.value,
            _state_of(user),
            ", ".join(groups.get(user.id, [])),
            when(user.created_at),
            user.id,
        )
        for user in users
    ]
    columns = ("NAME", "ROLE", "STATE", "GROUPS", "SINCE (UTC)", "ID")
    cli.show(data, Rows(columns, rows, "No users yet. Add one: mcphub user add NAME"))


async def show_user(cli: Cli, name: Name) -> None:
    """Show a user: groups, keys, and which credentials are set (never their values)."""
    async with cli.ground() as ground:
        user = await ground.directory.user(name)
        keys = await ground.directory.keys(user.id)
        members = [m for m in await ground.directory.memberships() if m.user_id == user.id]
        credentials = []
        if not user.disabled:
            principal = await ground.directory.principal_of(user.id)
            credentials = await ground.vault.listing(principal)
    data = _user(user) | {
        "groups": [{"name": m.group, "expires_at": m.expires_at} for m in members],
        "keys": [_key(key, user.name) for key in keys],
        "credentials": [
            {"server": c.server, "slot": c.slot, "updated_at": c.updated_at} for c in credentials
        ],
    }
    memberships = [
        m.group + (f" (until {when(m.expires_at)})" if m.expires_at else "") for m in members
    ]
    rows: list[tuple[str, str]] = [
        ("name", user.name),
        ("id", user.id),
        ("role", user.role.value),
        ("state", _state_of(user)),
        ("groups", ", ".join([EVERYONE, *memberships])),
        *(("key", f"{k.prefix}… {k.label} {_state(k, ground.clock())}") for k in keys),
        *(("credential", f"{c.server} {c.slot}, set {when(c.updated_at)}") for c in credentials),
    ]
    cli.show(data, Rows(("FACT", "VALUE"), rows))


async def set_role(
    cli: Cli,
    name: Name,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="admin or user.")],
) -> None:
    """Make a user an administrator or an ordinary user."""
    async with cli.ground() as ground:
        async with ground.db.together():
            user = await ground.directory.set_role(name, role)
            await ground.audit.write(CLI, log.USER_ROLE_SET, user.id, {"role": role.value})
        await cli.applied()
        cli.show(_user(user), f"{user.name} is now {_article(role)}.")


async def disable_user(cli: Cli, name: Name) -> None:
    """Stop a user: keys stop working at once, sessions and instances are ended. Nothing is deleted."""
    async with cli.ground() as ground:
        before = await _instances(cli, (await ground.directory.user(name)).id)
        async with ground.db.together():
            user = await ground.directory.disable_user(name)
            await ground.audit.write(CLI, log.USER_DISABLED, user.id, {})
        stopped = await _stopped(cli, user.id, before)
        cli.show(
            _user(user) | {"stopped_instances": stopped},
            f"Disabled {user.name}; {stopped} running instances were stopped.",
        )


async def enable_user(cli: Cli, name: Name) -> None:
    """Undo `disable`: the user's keys and credentials work again."""
    async with cli.ground() as ground:
        async with ground.db.together():
            user = await ground.directory.enable_user(name)
            await ground.audit.write(CLI, log.USER_ENABLED, user.id, {})
        await cli.applied()
        cli.show(_user(user), f"Enabled {user.name}.")


async def remove_user(
    cli: Cli,
    name: Name,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="WHEN", help="Disable now, remove then: 30d or a date."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Off-board a user for good: end sessions and instances, destroy keys, credentials and files.

    Request records and the audit log stay; they know the user by an opaque id only.
    """
    async with cli.ground() as ground:
        user = await ground.directory.user(name)
        at = expiry(after, ground.clock())
        cli.confirm(
            f"Remove {user.name} with all keys, credentials and files"
            + (f" at {when(at)} UTC?" if at else "? This cannot be undone."),
            yes=yes,
        )
        before = await _instances(cli, user.id)
        async with ground.db.together():
            if at is None:
                await ground.directory.disable_user(user.id)
                await ground.audit.write(CLI, log.USER_DISABLED, user.id, {})
            else:
                user = await ground.directory.remove_later(user.id, at)
                detail = {"name": user.name, "at": when(at)}
                await ground.audit.write(CLI, log.USER_REMOVAL_SET, user.id, detail)
        stopped = await _stopped(cli, user.id, before)
        if at is not None:
            cli.show(
                _user(user) | {"stopped_instances": stopped},
                f"Disabled {user.name}; {stopped} running instances were stopped. The running hub "
                f"removes the user at {when(at)} UTC. Undo: mcphub user enable {quote(user.name)}",
            )
            return
        gone = await destroy(ground, user.id, actor=CLI, stopped=stopped)
        await cli.applied()
        cli.show(
            {"id": user.id, "name": user.name, "stopped_instances": stopped, **asdict(gone)},
            f"Removed {user.name}: {stopped} instances stopped; {gone.keys} keys, "
            f"{gone.credentials} credentials and {gone.files} files destroyed."
            + _revocations(gone),
        )


def _revocations(gone: Destroyed) -> str:
    """Say what became of authorizations at other servers."""
    if not gone.revoked and not gone.not_revoked:
        return ""
    told = f" {gone.revoked} authorizations were revoked where they were given"
    if not gone.not_revoked:
        return f"{told}."
    return (
        f"{told}; {gone.not_revoked} could not be: their tokens are deleted here and expire there."
    )


async def add_group(cli: Cli, name: GroupName) -> None:
    """Add a group. Servers name the groups that may use them."""
    async with cli.ground() as ground:
        async with ground.db.together():
            group = await ground.directory.add_group(name)
            await ground.audit.write(CLI, log.GROUP_CREATED, group, {})
        await cli.applied()
        cli.show({"name": group}, f"Added the group {group}.")
        cli.note(f"Next: mcphub group join {group} USER")


async def list_groups(cli: Cli) -> None:
    """List all groups and their members."""
    async with cli.ground() as ground:
        names = await ground.directory.groups()
        users = {user.id: user.name for user in await ground.directory.users()}
        memberships = await ground.directory.memberships()
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for m in memberships:
        members[m.group].append({"user": users.get(m.user_id, ""), "expires_at": m.expires_at})
    for people in members.values():
        people.sort(key=itemgetter("user"))
    rows = [
        (
            name,
            "every user"
            if name == EVERYONE
            else ", ".join(
                m["user"] + (f" (until {when(m['expires_at'])})" if m["expires_at"] else "")
                for m in members[name]
            ),
        )
        for name in names
    ]
    data = [{"name": name, "members": members[name]} for name in names]
    cli.show(data, Rows(("GROUP", "MEMBERS"), rows))


async def remove_group(cli: Cli, name: GroupName) -> None:
    """Remove a group; servers of this group are no longer visible to its members."""
    async with cli.ground() as ground:
        async with ground.db.together():
            await ground.directory.remove_group(name)
            await ground.audit.write(CLI, log.GROUP_REMOVED, name, {})
        await cli.applied()
        cli.show({"name": name}, f"Removed the group {name}.")


async def join_group(cli: Cli, group: GroupName, user: Name, expires: Expires = None) -> None:
    """Make a user a member of a group, for good or until a time."""
    async with cli.ground() as ground:
        until = expiry(expires, ground.clock())
        async with ground.db.together():
            membership = await ground.directory.join(user, group, until)
            detail = {"group": group} | ({"until": when(until)} if until else {})
            await ground.audit.write(CLI, log.GROUP_JOINED, membership.user_id, detail)
        await cli.applied()
        cli.show(
            {"group": group, "user_id": membership.user_id, "expires_at": until},
            f"{user} is in {group}" + (f" until {when(until)} UTC." if until else "."),
        )


async def leave_group(cli: Cli, group: GroupName, user: Name) -> None:
    """End a user's membership of a group, at once."""
    async with cli.ground() as ground:
        found = await ground.directory.user(user)
        async with ground.db.together():
            await ground.directory.leave(found.id, group)
            await ground.audit.write(CLI, log.GROUP_LEFT, found.id, {"group": group})
        await cli.applied()
        cli.show({"group": group, "user_id": found.id}, f"{found.name} is no longer in {group}.")


async def create_key(
    cli: Cli,
    user: Name,
    label: Annotated[str, typer.Option("--label", help="What the key is for.")] = "",
    expires: Expires = None,
) -> None:
    """Make an API key for a user. The key is shown this once and stored nowhere."""
    async with cli.ground() as ground:
        owner = await ground.directory.user(user)
        async with ground.db.together():
            new = await ground.directory.create_key(
                owner.id, label, expiry(expires, ground.clock())
            )
            await ground.audit.write(
                CLI, log.KEY_CREATED, owner.id, {"key": new.info.id, "label": new.info.label}
            )
        await cli.applied()
        key = new.key.reveal()
        cli.note(f"API key of {owner.name}. It is shown only now; keep it like a password.")
        cli.show(_key(new.info, owner.name) | {"key": key}, key)
        cli.note("Next: mcphub client-config shows how a client uses it.")


async def list_keys(
    cli: Cli,
    user: Annotated[str | None, typer.Option("--user", help="Only keys of this user.")] = None,
) -> None:
    """List API keys by their first characters."""
    async with cli.ground() as ground:
        names = {found.id: found.name for found in await ground.directory.users()}
        owner = await ground.directory.user(user) if user else None
        keys = await ground.directory.keys(owner.id if owner else None)
        now = ground.clock()
    rows = [
        (
            f"{key.prefix}…",
            names.get(key.user_id, ""),
            key.label,
            _state(key, now),
            when(key.created_at),
            when(key.last_used_at) or "never",
            key.id,
        )
        for key in keys
    ]
    columns = ("KEY", "USER", "LABEL", "STATE", "MADE (UTC)", "LAST USED", "ID")
    cli.show(
        [_key(key, names.get(key.user_id, "")) for key in keys],
        Rows(columns, rows, "No keys yet. Make one: mcphub key create USER"),
    )


async def revoke_key(
    cli: Cli,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Id or first 12 characters.")],
) -> None:
    """Revoke an API key for good. It stops working at once."""
    async with cli.ground() as ground:
        async with ground.db.together():
            info = await ground.directory.revoke_key(key)
            await ground.audit.write(CLI, log.KEY_REVOKED, info.user_id, {"key": info.id})
        await cli.applied()
        cli.show(_key(info, ""), f"Revoked {info.prefix}….")


async def _instances(cli: Cli, owner: str) -> set[str]:
    """Return the ids of a user's running instances; none when no hub runs."""
    try:
        running = (await cli.running().get("/instances"))["instances"]
    except NotRunning:
        return set()
    return {instance["id"] for instance in running if instance["user"] == owner}


async def _stopped(cli: Cli, owner: str, before: set[str]) -> int:
    """Have the hub act on a user's end and wait until no instance is left; return how many ended."""
    await cli.applied()
    left = await _instances(cli, owner)
    for instance in left:
        try:
            await cli.running().delete(f"/instances/{instance}")
        except HubError as error:
            if error.code not in {
                NotFound.code,
                NotRunning.code,
            }:  # the hub was quicker, or has ended
                raise
    return len(before | left)


async def _groups_of(ground: "Ground") -> dict[str, list[str]]:
    now = ground.clock()
    found: dict[str, list[str]] = {}
    for m in await ground.directory.memberships():
        if m.expires_at is None or m.expires_at > now:
            found.setdefault(m.user_id, []).append(m.group)
    return found


def _user(user: "User") -> dict[str, Any]:
    return {
        "id": user.id,
        "name": user.name,
        "role": user.role.value,
        "disabled": user.disabled,
        "created_at": user.created_at,
        "remove_at": user.remove_at,
    }


def _state_of(user: "User") -> str:
    if not user.disabled:
        return "active"
    return f"disabled, to be removed {when(user.remove_at)}" if user.remove_at else "disabled"


def _key(key: "KeyInfo", user: str) -> dict[str, Any]:
    return {
        "id": key.id,
        "user_id": key.user_id,
        "user": user,
        "prefix": key.prefix,
        "label": key.label,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def _state(key: "KeyInfo", now: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None:
        return "expired" if key.expires_at <= now else f"until {when(key.expires_at)}"
    return "active"


def _article(role: Role) -> str:
    return "an administrator" if role is Role.ADMIN else "an ordinary user"
