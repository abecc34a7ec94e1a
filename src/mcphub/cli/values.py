"""What people type and read on the command line: times, durations, safe text. Pure values."""

import json
import re
import unicodedata
from datetime import UTC, datetime

import typer

_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,6})([mhdw])")


def seconds(text: str) -> float:
    """Return a duration such as `90m`, `12h`, `30d` or `2w` in seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or match.group(1).strip("0") == "":
        raise typer.BadParameter(f"'{text}' is no duration; write 90m, 12h, 30d or 2w.")
    return float(int(match.group(1)) * _UNITS[match.group(2)])


def pair(text: str) -> tuple[str, str]:
    """Return `KEY=VALUE` as its two parts.

    Raises:
        typer.BadParameter: It is not of that form.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"'{key}' must be KEY=VALUE.")
    return key, value


def expiry(text: str | None, now: float) -> float | None:
    """Return when something ends, in epoch seconds: `30d` from now, a date `2027-01-31`, or None.

    Raises:
        typer.BadParameter: It is neither.
    """
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        pass
    try:
        return now + seconds(text)
    except typer.BadParameter:
        raise typer.BadParameter(
            f"'{text}' is no time; write 30d, 12h or a date such as 2027-01-31."
        ) from None


def when(at: object) -> str:
    """Return epoch seconds as a UTC time for people; empty for None."""
    if not isinstance(at, (int, float)):
        return ""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def clean(text: object) -> str:
    """Return text that cannot steer a terminal: control and format characters are shown as `?`."""
    said = str(text)
    if said.isprintable():
        return said
    return "".join("?" if _acts(char) and char not in "\n\t" else char for char in said)


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON that cannot steer a terminal either, and says the same: such characters are escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        "".join(f"\\u{unit:04x}" for unit in _utf16(char)) if _acts(char) and char != "\n" else char
        for char in text
    )


def _utf16(char: str) -> tuple[int, ...]:
    data = char.encode("utf-16-be", "surrogatepass")
    return tuple(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))


def _acts(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cf", "Cs"}
