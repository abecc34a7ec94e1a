"""`mcphub explain`, `instances`, `requests`: why something is allowed, what runs, what happened."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from mcphub.audit.records import RequestRecord
from mcphub.audit.requests import Seen
from mcphub.cli.offers import check_offered, offered_tools
from mcphub.cli.shell import CLI, Cli, Rows, command, default
from mcphub.cli.values import clean, seconds, when
from mcphub.cli.verdicts import facts_of, host_facts, spec_of
from mcphub.policy.decide import decide
from mcphub.policy.decide import explain as explain_decision
from mcphub.policy.model import Denial, Step

_POLL_S = 0.5

InstanceId = Annotated[str, typer.Argument(metavar="ID", help="Id of the instance, i_….")]


def register_explain(app: typer.Typer) -> None:
    """Add `mcphub explain`."""
    command(app, "explain", example="mcphub explain anna github create_issue")(explain)


def register_instances(app: typer.Typer) -> None:
    """Add `mcphub instances` and its commands."""
    default(app, example="mcphub instances")(list_instances)
    command(app, "list", example="mcphub instances list")(list_instances)
    command(app, "stop", example="mcphub instances stop i_0123")(stop_instance)
    command(app, "stderr", example="mcphub instances stderr i_0123")(show_stderr)


def register_requests(app: typer.Typer) -> None:
    """Add `mcphub requests` and its commands."""
    default(app, example="mcphub requests --user anna --follow")(list_requests)
    command(app, "list", example="mcphub requests list --server github")(list_requests)
    command(app, "stats", example="mcphub requests stats --by server --since 24h")(statistics)


async def explain(
    cli: Cli,
    user: Annotated[str, typer.Argument(metavar="USER")],
    server: Annotated[str, typer.Argument(metavar="SERVER")],
    tool: Annotated[str | None, typer.Argument(metavar="[TOOL]")] = None,
) -> None:
    """Tell rule by rule whether a user may use a server (and a tool of it), and how it is isolated.

    Fails when the server has no such tool. Where its tools are not known yet, a step says so.
    """
    async with cli.ground() as ground:
        spec = spec_of(ground, server)
        principal = await ground.directory.principal_of(user)
        state = (await ground.states.all()).get(server)
        facts = facts_of(spec, state)
        host = await host_facts(cli)
        verdict = decide(principal, facts, host)
        steps = explain_decision(principal, facts, host, tool)
        denied = isinstance(verdict, Denial)
        if tool is not None and not denied:
            offered = await offered_tools(cli, ground, spec, state, principal)
            check_offered(spec, offered, tool)
            if offered.names is None:
                steps.append(Step("tool", offered.why_unknown, "not checked"))
    data = {
        "user": principal.user_name,
        "server": server,
        "tool": tool,
        "allowed": not denied and (tool is None or verdict.allows_tool(tool)),
        "isolation": None if denied else verdict.isolation.value,
        "rule": verdict.rule if denied else "permit",
        "steps": [asdict(step) for step in steps],
    }
    rows = [(step.rule, step.finding, step.outcome) for step in steps]
    cli.show(data, Rows(("RULE", "FINDING", "OUTCOME"), rows))


async def list_instances(cli: Cli) -> None:
    """List the running instances of the hub: whose, of which server, since when."""
    cli.there()
    answer = await cli.running().get("/instances")
    found: list[dict[str, Any]] = answer["instances"]
    async with cli.ground() as ground:
        names = {user.id: user.name for user in await ground.directory.users()}
    data = [
        entry | {"user_id": entry["user"], "user": names.get(entry["user"], entry["user"])}
        for entry in found
    ]
    rows = [
        (
            entry.get("id"),
            entry["user"],
            entry.get("server"),
            entry.get("state"),
            entry.get("calls"),
            _age(entry.get("age_s")),
            _age(entry.get("idle_s")),
            entry.get("pid"),
            entry.get("sandbox_level"),
            ", ".join(entry.get("refused") or {}),
        )
        for entry in data
    ]
    columns = ("ID", "USER", "SERVER", "STATE", "CALLS", "AGE", "IDLE", "PID", "LEVEL", "REFUSED")
    cli.show(data, Rows(columns, rows, "No instance runs. They start with a user's first call."))
    for missing in answer.get("unavailable", []):
        whom = names.get(missing["user"], missing["user"]) or "everybody"
        cli.warn(f"{missing['server']} cannot be listed for {whom}: {missing['reason']}")


async def stop_instance(cli: Cli, instance: InstanceId) -> None:
    """Stop an instance; its user's next call starts a new one."""
    cli.there()
    await cli.running().delete(f"/instances/{_id(instance)}")
    async with cli.ground() as ground:
        await ground.audit.write(CLI, "instance:stopped", instance)
    cli.show({"id": instance, "stopped": True}, f"Stopped {instance}.")


async def show_stderr(cli: Cli, instance: InstanceId) -> None:
    """Show what an instance wrote to stderr lately; known secrets are blacked out."""
    cli.there()
    lines = (await cli.running().get(f"/instances/{_id(instance)}/stderr"))["lines"]
    cli.show({"id": instance, "lines": lines}, "\n".join(lines) or "It wrote nothing to stderr.")


async def list_requests(
    cli: Cli,
    user: Annotated[str | None, typer.Option("--user", help="Only of this user.")] = None,
    server: Annotated[str | None, typer.Option("--server", help="Only to this server.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new ones.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The newest N.")] = 50,
) -> None:
    """Show who called what, when, with which outcome. Arguments and answers are not recorded.

    With --json and --follow every record is one line.
    """
    async with cli.ground() as ground:
        users = {found.id: found.name for found in await ground.directory.users()}
        user_id = (await ground.directory.user(user)).id if user else None

        def entries(seen: Seen) -> list[dict[str, Any]]:
            return [_record(record, users) for record in seen.records]

        seen = await ground.requests.recent(user_id, server, limit)
        if not follow:
            found = entries(seen)
            rows = [_cells(entry) for entry in found]
            cli.show(
                found,
                Rows(
                    _COLUMNS,
                    rows,
                    "No requests kept that fit." if user or server else "No requests yet.",
                ),
            )
            return
        while True:
            for entry in entries(seen):
                line = json.dumps(entry, ensure_ascii=False) if cli.as_json else _line(entry)
                print(line, flush=True)
            await asyncio.sleep(_POLL_S)
            seen = await ground.requests.after(seen.seq, user_id, server)


async def statistics(
    cli: Cli,
    by: Annotated[Literal["user", "server"], typer.Option("--by", help="user or server.")] = "user",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="1h, 7d, …")] = "24h",
) -> None:
    """Count requests, errors and durations per user or per server."""
    async with cli.ground() as ground:
        users = {found.id: found.name for found in await ground.directory.users()}
        start = ground.clock() - seconds(since)
        found = await ground.requests.statistics(by=by, since=start)
    data = [asdict(entry) for entry in found]
    for entry in data:
        entry["name"] = users.get(entry["key"], entry["key"]) if by == "user" else entry["key"]
    keys = ("name", "requests", "errors", "denied", "p50_ms", "p95_ms", "bytes_in", "bytes_out")
    rows = [[*(_short(entry[key]) for key in keys), when(entry["last_at"])] for entry in data]
    columns = [key.upper().replace("_", " ") for key in keys] + ["LAST (UTC)"]
    cli.show(data, Rows(columns, rows, "No requests in this time."))


_COLUMNS = ("TIME (UTC)", "USER", "SERVER", "METHOD", "NAME", "OUTCOME", "MS", "INSTANCE", "ID")


def _record(record: RequestRecord, users: Mapping[str, str]) -> dict[str, Any]:
    entry = asdict(record)
    return entry | {"user": users.get(str(entry.get("user_id", "")), "")}


def _cells(entry: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        when(entry.get("at")),
        entry.get("user") or entry.get("user_id"),
        entry.get("server"),
        entry.get("method"),
        entry.get("name"),
        entry.get("outcome"),
        _short(entry.get("duration_ms")),
        entry.get("instance_id"),
        entry.get("id"),
    )


def _line(entry: Mapping[str, Any]) -> str:
    return clean("  ".join(str(cell or "-") for cell in _cells(entry)))


def _short(value: object) -> object:
    return round(value, 1) if isinstance(value, float) else value


def _age(seconds: object) -> str:
    if not isinstance(seconds, (int, float)):
        return ""
    whole = int(seconds)
    return (
        f"{whole}s" if whole < 120 else f"{whole // 60}m" if whole < 7200 else f"{whole // 3600}h"
    )


def _id(instance: str) -> str:
    if not instance.isascii() or not instance.replace("_", "").isalnum():
        raise typer.BadParameter("An instance's id looks like i_0123…; see `mcphub instances`.")
    return instance
