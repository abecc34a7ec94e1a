"""What callers are told when an instance ends or never starts. Parts of `spawn.pool`."""

import asyncio
import re
import signal
from collections.abc import Sequence
from typing import Final

from mcphub.errors import HubError, Unavailable, UpstreamFailed

_WORDS: Final = 5
_LONGEST: Final = 600
_WIDTH: Final = 200
# of an uncaught error in Node.js: where it was thrown, frames, the version; brackets
_WORTHLESS: Final = re.compile(r"\s+at .*|node:[\w/]+:\d+|\s+throw \S.*|Node\.js v[\d.]+\s*|\W*")
_MEMBERS: Final = re.compile(r"\s+at .*\{\s*")  # its members follow, to a bracket at the margin
_USAGE: Final = 100  # lines of it that may follow what was wrong
_USAGE_BEGINS: Final = re.compile(r"\W{0,4}usage\b", re.IGNORECASE)
_USAGE_WORDS: Final = 10
_NAMES_ERROR: Final = re.compile(
    r"\W*(?:\S{1,40}: )?(?:[\w.]*(?:error|exception)|fatal|panic)\b", re.IGNORECASE
)


def hub_stops() -> Unavailable:
    """Return what calls in flight get when the hub stops."""
    return Unavailable("The hub is stopping.", hint="Call again soon.", retry_after_s=5)


def stopped(server: str) -> Unavailable:
    """Return what calls get whose instance was stopped under them."""
    return Unavailable(f"Server '{server}' was stopped.", hint="Call again.", retry_after_s=0)


def home_full(server: str, limit_bytes: int) -> UpstreamFailed:
    """Return what calls get whose instance wrote more into its home than it may."""
    return UpstreamFailed(
        f"Server '{server}' was stopped: its files take more than the {limit_bytes // 2**20} MiB that "
        "they may (`sandbox.homeMb`).",
        hint="Call again and delete what is not needed: it may run as long as it adds nothing.",
    )


def home_too_full(server: str) -> UpstreamFailed:
    """Return why no instance starts in a home that holds far more than it may."""
    return UpstreamFailed(
        f"Server '{server}' is not started: its files take far more than they may.",
        hint="An administrator deletes some of them, or raises `sandbox.homeMb`.",
    )


def ended(server: str, exited: "asyncio.Future[int] | None", why: str = "") -> UpstreamFailed:
    """Return what calls get whose server ended by itself; `why` says which limit it had reached."""
    said = f"Server '{server}' ended unexpectedly{status_of(exited)}."
    return UpstreamFailed(
        f"{said} {why}" if why else said,
        hint="Call again: the hub starts it anew.",
    )


def not_started(server: str, exited: "asyncio.Future[int] | None") -> UpstreamFailed:
    """Return what calls get whose server ended before it was ready."""
    return UpstreamFailed(
        f"Server '{server}' ended while it was being started{status_of(exited)}.",
        hint="If it does so again, its arguments, its environment or a credential are not what it needs.",
    )


def with_last_words(error: HubError, lines: Sequence[str]) -> HubError:
    """Add what a server said last on stderr, already redacted by the spawner; for its owner only."""
    said, members = list[str](), False
    for line in lines:
        members = not line.startswith("}") if members else _MEMBERS.fullmatch(line) is not None
        if not members and not _WORTHLESS.fullmatch(line):
            text = line.strip()
            said.append(text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…")
    told = said[-_WORDS:]
    if not any(map(_NAMES_ERROR.match, told)):  # how to use it, after what was wrong or alone
        wrong = [line for line in said[-_USAGE:] if _NAMES_ERROR.match(line)][-1:]
        told = wrong or usage_in(said) or told
    while len(told) > 1 and len(" / ".join(told)) > _LONGEST:
        del told[0]
    if told:
        error.message = f"{error.message} Its last words: {' / '.join(told)}"
    return error


def usage_in(lines: Sequence[str]) -> list[str]:
    """Return the first lines of a usage text, in which the commands are; nothing where there is none."""
    begins = next((at for at, line in enumerate(lines) if _USAGE_BEGINS.match(line)), None)
    if begins is None:
        return []
    told: list[str] = []
    for line in filter(None, (" ".join(line.split()) for line in lines[begins:])):
        if len(told) == _USAGE_WORDS or len(" / ".join([*told, line])) > _LONGEST:
            break
        told.append(line)
    return told


def status_of(exited: "asyncio.Future[int] | None") -> str:
    """Return how a process ended, in parentheses; empty when it has not, or there is none."""
    if exited is None or not exited.done() or exited.cancelled():
        return ""
    status = exited.result()
    if status in {-signal.SIGXFSZ, 128 + signal.SIGXFSZ}:
        return " (it wrote a file that is larger than its home may be, `sandbox.homeMb`)"
    return f" (killed by signal {-status})" if status < 0 else f" (exit status {status})"
