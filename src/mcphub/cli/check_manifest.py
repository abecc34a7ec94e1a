"""`mcphub check --manifest`: many servers, one line of JSON for each as soon as it is known.

The lines also go into a file, by which a run that was ended goes on where it was (`--resume`).
"""

import asyncio
import json
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcphub.catalog.packages import PackageStore
from mcphub.catalog.states import ServerState
from mcphub.cli.check_hub import copied
from mcphub.cli.shell import Cli
from mcphub.cli.values import json_text
from mcphub.errors import HubError, InvalidInput
from mcphub.ids import system_clock
from mcphub.isolation.acquire import remembered
from mcphub.isolation.manifest import Entry, read, requirement, setting
from mcphub.isolation.model import Result, Verdict
from mcphub.isolation.report import as_json

_SERVER = "server"  # name of the one server of each copy of the hub


@dataclass(frozen=True, slots=True)
class Series:
    """How a manifest is gone through.

    Attributes:
        file: The manifest.
        only: Ids of the entries that are wanted; empty for all.
        results: Where the lines go too, or None.
        resume: Leave out what has a line there already; else the file begins anew.
        jobs: Servers that are checked at the same time.
        total_s: Seconds after which no other server is begun, or None.
    """

    file: Path
    only: tuple[str, ...] = ()
    results: Path | None = None
    resume: bool = False
    jobs: int = 1
    total_s: float | None = None


async def go_through(
    cli: Cli, series: Series, check: Callable[[Entry], Awaitable[Result]]
) -> list[Result]:
    """Check the entries; `check` raises HubError for what cannot be checked.

    Raises:
        InvalidInput: The manifest cannot be read, or there is nothing to go on with.
    """
    if series.resume and series.results is None:
        raise InvalidInput("--resume needs the file to go on with.", hint="Give --results FILE.")
    entries = [entry for entry in read(series.file) if not series.only or entry.id in series.only]
    known = _known(series)
    waiting = [entry for entry in entries if entry.id not in known]
    if known:
        cli.note(f"{len(entries) - len(waiting)} of {len(entries)} have a result already")
    end = None if series.total_s is None else asyncio.get_running_loop().time() + series.total_s
    found: list[Result] = []
    left = iter(enumerate(waiting, 1))

    async def work(numbered: Iterator[tuple[int, Entry]]) -> None:
        for number, entry in numbered:
            if end is not None and asyncio.get_running_loop().time() > end:
                cli.note(f"{entry.id}: not begun, the time for all is over; go on with --resume")
                continue
            cli.note(f"{number}/{len(waiting)} {entry.id}")
            try:
                result = await check(entry)
            except HubError as error:
                result = not_installed(entry.id, error)
            except Exception as error:  # noqa: BLE001  one server's trouble does not end the others
                cli.note(f"{entry.id}: {traceback.format_exc()}")
                reason = f"The check failed by a mistake of its own: {type(error).__name__}."
                result = Result(entry.id, "", Verdict.INCONCLUSIVE, None, reason)
            found.append(result)
            _tell(series, result)

    async with asyncio.TaskGroup() as group:
        for _ in range(series.jobs):
            group.create_task(work(left))
    return found


def not_installed(name: str, error: HubError) -> Result:
    """Return the result of a server that could not be installed."""
    reason = f"It could not be installed: {error.message} {error.hint}".strip()
    return Result(name, "", Verdict.INCONCLUSIVE, None, reason)


def behind_hub(
    cli: Cli, packages: PackageStore, budget_s: float
) -> Callable[[Entry], Awaitable[Result]]:
    """Return what checks an entry behind a hub that has no other server."""

    async def check(entry: Entry) -> Result:
        try:
            servers = {_SERVER: {**setting(entry), "riskLevel": "critical"}}
        except InvalidInput as error:
            reason = f"It was not tried behind the hub: {error.message}"
            return Result(entry.id, "", Verdict.INCONCLUSIVE, None, reason)
        wanted, _ = requirement(entry)
        pin = None
        if wanted is not None:
            pin = remembered(pins(cli), wanted) or await packages.resolve(wanted)
            if packages.installed(pin, wanted) is None:
                await packages.install(pin, wanted, cli.note)
        states = {_SERVER: ServerState(_SERVER, pin=pin)}
        async with copied(cli.settings(), servers, states) as copy:
            result = await copy.check(
                _SERVER, budget_s, lambda step: cli.note(f"{entry.id} behind the hub: {step}")
            )
        return replace(result, id=entry.id)

    return check


def pins(cli: Cli) -> Path:
    """Return the directory that remembers what exact versions resolved to."""
    return cli.settings().dir / "checks" / "pins"


def _known(series: Series) -> set[str]:
    """Return the ids that have a line already; a line that was not finished is cut off."""
    if series.results is None:
        return set()
    series.results.parent.mkdir(parents=True, exist_ok=True)
    lines = series.results.read_text().splitlines() if series.results.exists() else []
    whole = [line for line in lines if _id_of(line)] if series.resume else []
    series.results.write_text("".join(f"{line}\n" for line in whole))
    return {_id_of(line) for line in whole}


def _id_of(line: str) -> str:
    try:
        value: Any = json.loads(line)
    except ValueError:
        return ""
    found = value.get("id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _tell(series: Series, result: Result) -> None:
    print(json_text(as_json(result)), flush=True)
    if series.results is not None:
        day = datetime.fromtimestamp(system_clock(), UTC).date().isoformat()
        line = json_text({**as_json(result), "day": day})
        with series.results.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
