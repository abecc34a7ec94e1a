"""`mcphub user import`: many users at once, from a table that another program has written.

The whole file is read and looked at before anything is changed. Then each row is done by itself, so
that a run that was ended goes on where it stood when it is started again.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TextIO

import typer

from mcphub.audit import log
from mcphub.cli.shell import CLI, Cli
from mcphub.cli.values import expiry
from mcphub.errors import Conflict, HubError, InvalidInput, NotFound
from mcphub.policy.model import EVERYONE, Role

if TYPE_CHECKING:
    from mcphub.ground import Ground
    from mcphub.identity.model import User

EXAMPLE: Final = "mcphub user import people.csv --keys keys.csv"
_COLUMNS: Final = ("name", "groups", "role")
_MAX_BYTES: Final = 16 * 1024 * 1024
_MOST_NAMED: Final = 5
_TELL_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Person:
    """One row.

    Attributes:
        line: Where it stands, from 1.
        groups: Beside `everyone`.
        role: None where the row says nothing.
    """

    line: int
    name: str
    groups: tuple[str, ...]
    role: Role | None


@dataclass(slots=True)
class _Done:
    added: int = 0
    known: int = 0
    joined: int = 0
    keys: int = 0


async def import_users(
    cli: Cli,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV file; - for standard input.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys", metavar="FILE", help="New file for a key of each of them who has none."
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="WHEN", help="When the keys expire: 30d or a date."),
    ] = None,
    add_groups: Annotated[
        bool, typer.Option("--add-groups", help="Add the groups that there are not yet.")
    ] = False,
) -> None:
    """Add many users, with groups and keys, from a CSV file with a heading.

    Columns: name; groups, separated by spaces or semicolons; role, user or admin. Users who are there
    join the groups of their row and are otherwise left as they are; nobody leaves a group. After a
    failure the same command goes on, with another file for the keys.
    """
    people = rows(_text(file))
    async with cli.ground() as ground:
        until = expiry(expires, ground.clock())
        known = {user.name: user for user in await ground.directory.users()}
        missing = await _checked(ground, people, known)
        if missing and not add_groups:
            raise NotFound(
                f"There are no groups {_some(missing)}.",
                hint="Add them with `mcphub group add`, or give --add-groups.",
            )
        with _new_file(keys) if keys is not None else nullcontext() as out:
            done = _Done()
            try:
                for group in missing:
                    await ground.directory.add_group(group)
                    await ground.audit.write(CLI, log.GROUP_CREATED, group, {})
                await _import(cli, ground, people, known, out, until, done)
            finally:
                await cli.applied()
    figures = {"added": done.added, "known": done.known, "joined": done.joined, "keys": done.keys}
    told = f"{done.added} users added, {done.known} were there; {done.joined} new memberships."
    cli.show(figures, told)
    if keys is not None:
        cli.note(f"{done.keys} keys are in {keys}, and nowhere else. Give each to its user; then")
        cli.note("delete the file. `mcphub client-config` shows how a client uses a key.")


def rows(text: str) -> list[Person]:
    """Return the rows of a CSV table.

    Raises:
        InvalidInput: It has no such columns, or a row cannot be used; the text names its line.
    """
    from mcphub.identity.model import checked_group_name, checked_user_name  # noqa: PLC0415

    table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    heading = [(column or "").strip().lower() for column in table.fieldnames or ()]
    strange = [column for column in heading if column not in _COLUMNS]
    if "name" not in heading or strange or len(set(heading)) < len(heading):
        what = f"It has {_some(strange)}." if strange else "It has to have `name`."
        raise InvalidInput(
            f"The heading of the table cannot be used. {what}",
            hint="The first line names the columns: name,groups,role (the last two may be missing).",
        )
    table.fieldnames = heading
    found: dict[str, Person] = {}
    try:
        for row in table:
            line = table.line_num
            if None in row or None in row.values():
                raise InvalidInput(f"Line {line} has another number of cells than the heading.")
            cells = {column: cell.strip() for column, cell in row.items()}
            try:
                name = checked_user_name(cells["name"])
                groups = cells.get("groups", "").replace(";", " ").split()
                wanted = dict.fromkeys(checked_group_name(one) for one in groups if one != EVERYONE)
                role = Role(cells["role"].lower()) if cells.get("role") else None
            except HubError as error:
                raise InvalidInput(f"Line {line}: {error.message}", hint=error.hint) from None
            except ValueError:
                raise InvalidInput(f"Line {line}: a role is user or admin.") from None
            if name in found:
                raise InvalidInput(f"Line {line} names {name!r} again, after {found[name].line}.")
            found[name] = Person(line, name, tuple(wanted), role)
    except csv.Error as error:
        raise InvalidInput(f"Line {table.line_num} is no CSV: {error}.") from None
    return list(found.values())


async def _checked(
    ground: "Ground", people: list[Person], known: Mapping[str, "User"]
) -> list[str]:
    """Return the groups that there are not.

    Raises:
        Conflict: A user is there with another role.
    """
    for person in people:
        user = known.get(person.name)
        if user is not None and person.role not in {None, user.role}:
            raise Conflict(
                f"Line {person.line}: {person.name} is there, as {user.role.value}.",
                hint=f"Run: mcphub user role {person.name} {person.role}",
            )
    there = set(await ground.directory.groups())
    return sorted({group for person in people for group in person.groups} - there)


async def _import(
    cli: Cli,
    ground: "Ground",
    people: list[Person],
    known: Mapping[str, "User"],
    out: TextIO | None,
    until: float | None,
    done: _Done,
) -> None:
    directory, audit = ground.directory, ground.audit
    members = {(one.user_id, one.group) for one in await directory.memberships()}
    keyed = {key.user_id for key in await directory.keys() if key.revoked_at is None}
    for number, person in enumerate(people, 1):
        user = known.get(person.name)
        if user is None:
            user = await directory.add_user(person.name, person.role or Role.USER)
            await audit.write(CLI, log.USER_CREATED, user.id, {"name": user.name})
            done.added += 1
        else:
            done.known += 1
        for group in person.groups:
            if (user.id, group) not in members:
                await directory.join(user.id, group)
                await audit.write(CLI, log.GROUP_JOINED, user.id, {"group": group})
                done.joined += 1
        if out is not None and user.id not in keyed:
            new = await directory.create_key(user.id, expires_at=until)
            csv.writer(out).writerow((user.name, new.key.reveal()))
            out.flush()
            detail = {"key": new.info.id, "label": new.info.label}
            await audit.write(CLI, log.KEY_CREATED, user.id, detail)
            done.keys += 1
        if number % _TELL_EVERY == 0:
            cli.note(f"{number} of {len(people)}")


def _text(file: str) -> str:
    """Return the text of the file.

    Raises:
        InvalidInput: It cannot be read, is no UTF-8 text, or is too large.
    """
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                data = source.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidInput(f"The table is larger than {_MAX_BYTES} bytes.")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidInput("The table is no UTF-8 text.", hint="Save it as CSV, UTF-8.") from None


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Open a file for keys that only its owner can read; one that is there is never written to.

    Raises:
        Conflict: There is one.
        InvalidInput: It cannot be made.
    """
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} is there already.", hint="Name a new file for the keys.") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}.") from None
    with os.fdopen(fd, "w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerow(("name", "key"))
        yield out


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED])
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
