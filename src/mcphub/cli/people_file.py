"""`mcphub user import`: many users at once, from a table that another program has written.

The whole file is read and looked at before anything is changed, and all of it is done or nothing.
"""

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Final

import typer

from mcphub.audit import log
from mcphub.cli.shell import CLI, Cli
from mcphub.cli.values import expiry
from mcphub.errors import Conflict, HubError, InvalidInput
from mcphub.identity.model import Arrival, Person, checked_group_name, checked_user_name
from mcphub.policy.model import EVERYONE, Role

EXAMPLE: Final = "mcphub user import people.csv --keys keys.csv"
_COLUMNS: Final = ("name", "groups", "role")
_MAX_BYTES: Final = 16 * 1024 * 1024
_MOST_NAMED: Final = 5


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
    join the groups of their row and are otherwise left as they are; nobody leaves a group. All of it
    is done or nothing.
    """
    from mcphub.identity.arrivals import arrive  # noqa: PLC0415  --help can do without the database

    people = rows(_text(file))
    async with cli.ground() as ground:
        until = expiry(expires, ground.clock())
        with _new_file(keys) if keys is not None else nullcontext() as hand_out:
            async with ground.db.together():
                arrivals, added = await arrive(
                    ground.db,
                    ground.clock,
                    people,
                    add_groups=add_groups,
                    hand_out=hand_out,
                    expires_at=until,
                )
                await ground.audit.write_all(CLI, _events(arrivals, added))
        await cli.applied()
    figures = {
        "added": sum(one.is_new for one in arrivals),
        "known": sum(not one.is_new for one in arrivals),
        "joined": sum(len(one.joined) for one in arrivals),
        "keys": sum(one.key is not None for one in arrivals),
        "groups": added,
    }
    told = "{added} users added, {known} were there; {joined} new memberships.".format_map(figures)
    cli.show(figures, told)
    if keys is not None:
        cli.note(f"{figures['keys']} keys are in {keys}, and nowhere else. Give each to its user;")
        cli.note("then delete the file. `mcphub client-config` shows how a client uses a key.")


def _events(arrivals: list[Arrival], added: list[str]) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Say what was done, as the commands for one user do."""
    for group in added:
        yield log.GROUP_CREATED, group, {}
    for one in arrivals:
        if one.is_new:
            yield log.USER_CREATED, one.id, {"name": one.name}
        for group in one.joined:
            yield log.GROUP_JOINED, one.id, {"group": group}
        if one.key is not None:
            yield log.KEY_CREATED, one.id, {"key": one.key.info.id, "label": ""}


def rows(text: str) -> list[Person]:
    """Return the rows of a CSV table.

    Raises:
        InvalidInput: It has no such columns, or a row cannot be used; the text names its line.
    """
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
                raise InvalidInput(f"Line {line} names {name!r} again.")
            found[name] = Person(name, tuple(wanted), role)
    except csv.Error as error:
        raise InvalidInput(f"Line {table.line_num} is no CSV: {error}.") from None
    return list(found.values())


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
def _new_file(path: Path) -> Iterator[Callable[[list[Arrival]], None]]:
    """Make a file that only its owner can read; yields what writes keys into it.

    One that is there is never written to, and one in which nothing was written goes again.

    Raises:
        Conflict: There is one.
        InvalidInput: It cannot be written.
    """

    def write(arrivals: list[Arrival]) -> None:
        table = csv.writer(out)
        table.writerow(("name", "key"))
        table.writerows((one.name, one.key.key.reveal()) for one in arrivals if one.key)
        out.flush()
        os.fsync(out.fileno())

    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
    except FileExistsError:
        raise Conflict(f"{path} is there already.", hint="Name a new file for the keys.") from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}.") from None
    try:
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as out:
            yield write
    except BaseException:
        path.unlink(missing_ok=True)  # its keys count nowhere
        raise


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MOST_NAMED])
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
