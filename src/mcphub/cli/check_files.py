"""The files that a check lays into the home of a server: those of `--file`, those of its settings."""

from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import typer

from mcphub.catalog.forms import shaped
from mcphub.catalog.spec import ServerSpec
from mcphub.cli.values import pair
from mcphub.errors import InvalidInput

_LARGEST: Final = 65_536  # characters: what is searched for credentials

Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="PLACE=FILE",
        help="Lay a text file into its home, as {home}/PLACE; secrets are replaced.",
    ),
]


def files(given: list[str] | None) -> dict[str, str]:
    """Read the files that are laid into the home: place inside -> text.

    Raises:
        InvalidInput: One cannot be read, or its place is none below the home.
    """
    found: dict[str, str] = {}
    for word in given or []:
        name, source = pair(word)
        below = PurePosixPath(name.removeprefix("{home}").removeprefix("/"))
        if name.startswith("/") or ".." in below.parts or not below.parts:
            raise InvalidInput(
                f"--file {name[:80]} is no place below the server's home.",
                hint="Write it as the server sees it: --file '{home}/.config/x.json=./x.json'",
            )
        try:
            with Path(source).open("rb") as file:
                text = file.read(_LARGEST + 1).decode()
        except (OSError, ValueError) as error:
            raise InvalidInput(
                f"{source[:200]} cannot be read as text: {type(error).__name__}.",
                hint="Give a text file of this machine: --file '{home}/PLACE=FILE'",
            ) from None
        if len(text) > _LARGEST:
            raise InvalidInput(
                f"{source[:200]} is larger than 64 KiB.", hint="Give the settings only."
            )
        found[str(PurePosixPath("{home}", below))] = text
    return found


def files_of(spec: ServerSpec) -> dict[str, str]:
    """Return the files of a server of the settings with forms for made-up values: place -> template."""
    found = shaped(spec.files, spec.env)
    return {str(PurePosixPath("{home}", below)): text for below, text in found.items()}
