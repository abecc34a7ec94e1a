"""`mcphub user import`: many users at once, from a table that another program has written.

The whole file is read and looked at before anything is changed, and all of it is done or nothing.
"""

import codecs
import csv
import io
import os
import re
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
_SEPARATORS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
_SEPARATOR_LINE: Final = re.compile(r"sep=([,;\t])(?:\r\n|\r|\n)", re.IGNORECASE)
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

    Columns: name; groups, separated by spaces, commas or semicolons; role, user or admin. The cells of
    a row are separated by commas, semicolons or tabs, whichever the heading has. Users who are there
    join the groups of their row and are otherwise left as they are; nobody leaves a group. All of it is
    done or nothing.
    """
    from mcphub.identity.arrivals import arrive  # noqa: PLC0415  --help can do without the database

    people = rows(text_of(file))
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

    Cells are separated by commas, semicolons or tabs, whichever makes known columns of the heading. A first
    line such as `sep=;`, as spreadsheets write it, is understood; rows without any text are left out.

    Raises:
        InvalidInput: It has no such columns, or a row cannot be used; the text names the line where it begins.
    """
    named = _SEPARATOR_LINE.match(text)
    text = text[named.end() :] if named else text
    separator = named.group(1) if named else _separator(text)
    found: dict[str, Person] = {}
    heading: list[str] = []
    for number, row in _records(text, separator):
        line = number + bool(named)
        if not any(row):
            continue
        if not heading:
            heading = _heading(row)
            continue
        person = _person(line, _cells(line, row, heading, separator))
        if person.name in found:
            raise InvalidInput(
                f"Line {line} names {person.name!r} again.",
                hint="Put all groups of a user into one line.",
            )
        found[person.name] = person
    if not heading:
        _heading([])
    return list(found.values())


def _separator(text: str) -> str:
    """Return what separates the cells of the heading: what makes most known columns of it."""

    def known(separator: str) -> int:
        try:
            first = next((row for _, row in _records(text, separator) if row), [])
        except InvalidInput:
            return 0
        return sum(cell.strip().lower() in _COLUMNS for cell in first)

    return max(_SEPARATORS, key=known)


def _records(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with the number of the line where each begins.

    Raises:
        InvalidInput: A quote is not closed, or stands in the middle of a cell.
    """
    table = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    while True:
        line = table.line_num + 1
        try:
            row = next(table, None)
        except csv.Error as error:
            raise InvalidInput(
                f"The row that begins in line {line} is no CSV: {error}.",
                hint='A cell with quotes in it is written "like ""this""".',
            ) from None
        if row is None:
            return
        yield line, row


def _heading(row: list[str]) -> list[str]:
    columns = [cell.strip().lower() for cell in row]
    while columns and not columns[-1]:  # spreadsheets keep columns that were emptied
        columns.pop()
    strange = [column for column in columns if column not in _COLUMNS]
    if "name" not in columns or strange or len(set(columns)) < len(columns):
        what = (
            f"It has {_some(strange)}."
            if strange
            else "A column is there twice."
            if "name" in columns
            else "It has to have `name`."
        )
        raise InvalidInput(
            f"The heading of the table cannot be used. {what}",
            hint="The first line names the columns: name,groups,role (the last two may be missing).",
        )
    return columns


def _cells(line: int, row: list[str], heading: list[str], separator: str) -> dict[str, str]:
    while len(row) > len(heading) and not row[-1]:
        row.pop()
    if len(row) != len(heading):
        word = _SEPARATORS[separator]
        raise InvalidInput(
            f"Line {line} has another number of cells than the heading: {len(row)} and not "
            f"{len(heading)}.",
            hint=f"Cells of this table are separated by {word}s; one with a {word} in it is put in "
            "quotes.",
        )
    return {column: cell.strip() for column, cell in zip(heading, row, strict=True)}


def _person(line: int, cells: dict[str, str]) -> Person:
    try:
        name = checked_user_name(cells["name"])
        groups = re.split(r"[\s;,]+", cells.get("groups", ""))
        wanted = dict.fromkeys(
            checked_group_name(one) for one in groups if one not in {"", EVERYONE}
        )
        role = Role(cells["role"].lower()) if cells.get("role") else None
    except HubError as error:
        raise InvalidInput(f"Line {line}: {error.message}", hint=error.hint) from None
    except ValueError:
        raise InvalidInput(
            f"Line {line}: a role is user or admin.",
            hint="Leave the cell empty for an ordinary user.",
        ) from None
    return Person(name, tuple(wanted), role)


def text_of(file: str) -> str:
    """Return the text of the file: UTF-8, or UTF-16 that says so, as spreadsheets write "Unicode text".

    Raises:
        InvalidInput: It cannot be read, is no such text, or is too large.
    """
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as source:
                data = source.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be read: {error.strerror}.",
            hint="Name a CSV file, or - for standard input.",
        ) from None
    if len(data) > _MAX_BYTES:
        raise InvalidInput(f"The table is larger than {_MAX_BYTES} bytes.")
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(
            f"Line {line} of the table is no UTF-8 text.",
            hint='Save it as "CSV UTF-8" in the spreadsheet, or convert it: '
            "iconv -f WINDOWS-1252 -t UTF-8 FILE",
        ) from None


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
