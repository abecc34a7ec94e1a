"""Tables of the command line as lines of text. Pure values; quick with thousands of rows.

Measuring and folding are wcwidth's. The frame around them is ours, because no library for tables
does it: of 5,000 users at 100 columns, rich takes 1.5 to 2.4 s, tabulate 1.1 s and does not fit
columns into a terminal, prettytable 0.8 s and cuts "member" in two while other columns have room,
texttable 0.5 s and lets wide characters run over, columnar 0.1 s and breaks words (no release since
2021). This takes 0.3 s, and 0.03 s where nothing is folded.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

from wcwidth import ljust, width, wrap

_GAP: Final = "  "
_NARROWEST: Final = 8  # columns of a terminal that a cell keeps, however little room there is


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], room: int, *, bold: bool = False
) -> Iterator[str]:
    """Yield the lines of a table: the headings, then each row, folded where it does not fit.

    Args:
        columns: Headings.
        rows: Cells, as many as there are columns; text that is safe to print.
        room: Columns of the terminal that a line may take. Very many columns take more.
        bold: Print the headings in bold.
    """
    lines = [[cell.expandtabs().split("\n") for cell in row] for row in (columns, *rows)]
    wanted = [
        max(width(line) for cell in cells for line in cell) for cells in zip(*lines, strict=True)
    ]
    widths = _fitted(wanted, room - len(_GAP) * (len(columns) - 1))
    for line in _row(lines[0], widths):
        yield f"\x1b[1m{line}\x1b[0m" if bold else line
    for row in lines[1:]:
        yield from _row(row, widths)


def _row(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    folded = [
        [part for line in cell for part in _folded(line, wide)]
        for cell, wide in zip(cells, widths, strict=True)
    ]
    for parts in zip_longest(*folded, fillvalue=""):
        padded = [ljust(part, wide) for part, wide in zip(parts, widths, strict=True)]
        yield _GAP.join(padded).rstrip()


def _folded(line: str, wide: int) -> Sequence[str]:
    """Return a line in parts of at most `wide` columns, broken at spaces where there are some."""
    return [line] if width(line) <= wide else wrap(line, wide, break_on_hyphens=False)


def _fitted(wanted: Sequence[int], room: int) -> list[int]:
    """Return widths that fit into `room`: the widest columns are cut to one common width."""
    if sum(wanted) <= room:
        return list(wanted)
    left, widths = room, list(wanted)
    by_width = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, column in enumerate(by_width):
        share = max(left // (len(wanted) - done), _NARROWEST)
        widths[column] = min(wanted[column], share)
        left -= widths[column]
    return widths
