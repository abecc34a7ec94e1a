"""Tables of the command line as lines of text. Pure values; quick with thousands of rows."""

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Final

_GAP: Final = "  "
_NARROWEST: Final = 8  # columns of a terminal that a cell keeps, however little room there is


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, bold: bool = False
) -> Iterator[str]:
    """Yield the lines of a table: the headings, then each row, folded where it does not fit.

    Args:
        columns: Headings.
        rows: Cells, as many as there are columns; text that is safe to print.
        width: Columns of the terminal that a line may take. Very many columns take more.
        bold: Print the headings in bold.
    """
    wanted = [max(map(_wide, cells)) for cells in zip(columns, *rows, strict=True)]
    widths = _fitted(wanted, width - len(_GAP) * (len(columns) - 1))
    for line in _row(columns, widths):
        yield f"\x1b[1m{line}\x1b[0m" if bold else line
    for row in rows:
        yield from _row(row, widths)


def _row(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    folded = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for parts in zip_longest(*folded, fillvalue=""):
        padded = [part + " " * (w - _wide(part)) for part, w in zip(parts, widths, strict=True)]
        yield _GAP.join(padded).rstrip()


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


def _folded(cell: str, width: int) -> list[str]:
    """Return a cell in lines of at most `width`, broken at spaces where there are some."""
    if "\n" not in cell and _wide(cell) <= width:
        return [cell]
    return [part for line in cell.split("\n") for part in _broken(line, width)]


def _broken(line: str, width: int) -> Iterator[str]:
    while _wide(line) > width:
        end = used = 0
        while used + _char(line[end]) <= width or not end:
            used += _char(line[end])
            end += 1
        space = line.rfind(" ", 0, end + 1)
        if space > 0:
            yield line[:space]
            line = line[space + 1 :]
        else:
            yield line[:end]
            line = line[end:]
    yield line


def _wide(text: str) -> int:
    """Return how many columns of a terminal a text takes; of several lines, those of the widest."""
    if "\n" in text:
        return max(map(_wide, text.split("\n")))
    return len(text) if text.isascii() else sum(map(_char, text))


def _char(char: str) -> int:
    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1
