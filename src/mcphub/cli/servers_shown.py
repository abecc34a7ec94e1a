"""`mcphub server list` and `show`: which servers there are, what exactly they run, and for whom."""

from typing import TYPE_CHECKING, Any

from mcphub.catalog.jsonc import parse
from mcphub.catalog.settings_file import read_text
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerState
from mcphub.cli.check_evidence import told_of
from mcphub.cli.servers_file import unknown_groups
from mcphub.cli.servers_packages import pin_facts
from mcphub.cli.shell import Cli, Rows
from mcphub.cli.verdicts import (
    ServerName,
    facts_of,
    host_facts,
    noticed,
    somebody,
    spec_of,
    start_of,
    verdict_of,
)
from mcphub.policy.decide import decide
from mcphub.policy.model import Denial, HostFacts, Role

if TYPE_CHECKING:
    from mcphub.ground import Ground


async def list_servers(cli: Cli) -> None:
    """List all servers: risk, isolation, pinned version, groups, state."""
    async with cli.ground() as ground:
        states = await ground.states.all()
        host = await host_facts(cli)
        seen = await noticed(cli)
        data = [
            _summary(spec, states.get(spec.name), host)
            | {
                "unavailable": seen.problems.get(spec.name, []),
                "advice": seen.advice.get(spec.name, ""),
            }
            for spec in ground.live.current.specs.values()
        ]
        groups = await ground.directory.groups()
        warnings = [
            *ground.live.current.warnings,
            *unknown_groups(ground.live.current.specs.values(), groups),
        ]
    rows = [
        (
            entry["name"],
            entry["risk"] or "unclassified",
            entry["isolation"] or "refused",
            entry["version"] or "not pinned",
            ", ".join(entry["groups"]) or "administrators only",
            _state(entry),
        )
        for entry in data
    ]
    columns = ("NAME", "RISK", "ISOLATION", "VERSION", "GROUPS", "STATE")
    cli.show(
        data, Rows(columns, rows, "No servers yet. Add one: mcphub server add NAME -- COMMAND")
    )
    for warning in warnings:
        cli.warn(warning)
    for entry in data:
        for reason in entry["unavailable"]:
            cli.warn(f"{entry['name']} cannot be listed: {reason}")
        if entry["advice"]:
            cli.warn(f"{entry['name']}: {entry['advice']}")


def _state(entry: dict[str, Any]) -> str:
    if not entry["enabled"]:
        return "disabled"
    return "not listed" if entry["unavailable"] else "enabled"


async def show_server(cli: Cli, name: ServerName) -> None:
    """Show a server: what it runs, its slots, its pin and evidence, and policy for each role."""
    async with cli.ground() as ground:
        spec = spec_of(ground, name)
        state = (await ground.states.all()).get(name)
        host = await host_facts(cli)
        seen = await noticed(cli)
        data = _summary(spec, state, host)
        evidence = await ground.states.evidence_of(name)
        pin = state.pin if state is not None else None
        data |= {
            "title": spec.title,
            "transport": spec.transport.value,
            "written": _as_written(ground, name),
            "files": [f"~/{below}" for below in spec.files],
            "slots": list(spec.slot_names),
            "egress": list(spec.sandbox.egress),
            "redirect": dict(spec.sandbox.redirect),
            "tools": {"allow": list(spec.tools_allow), "deny": list(spec.tools_deny)},
            "pin": pin_facts(pin) if pin is not None else None,
            "start": start_of(ground, spec, pin),
            "unavailable": seen.problems.get(name, []),
            "advice": seen.advice.get(name, ""),
            "evidence": [
                {"kind": e.kind, "version": e.version, "by": e.by, "at": e.at, "note": e.note}
                for e in evidence
            ],
            "policy": {role.value: verdict_of(spec, state, host, role) for role in Role},
        }
    rows: list[tuple[str, object]] = [
        ("name", f"{spec.name} ({spec.title})" if spec.title != spec.name else spec.name),
        ("transport", spec.transport.value),
        ("runs", _runs(data["written"])),
        ("risk", data["risk"] or "unclassified: treated as critical"),
        ("groups", ", ".join(data["groups"]) or "administrators only"),
        ("state", "enabled" if data["enabled"] else "disabled"),
        ("version", pin.told if pin else data["version"] or "not pinned yet"),
        ("start", f"{data['start']['mode']}: {data['start']['reason']}"),
        *(("environment", key) for key in spec.env),
        *(("file", f"~/{below}") for below in spec.files),
        *(("slot", f"{slot.name} in {', '.join(slot.places)}") for slot in spec.slots),
        ("egress", ", ".join(spec.sandbox.egress) or "no network"),
        *(("redirect", f"{key} -> {to}") for key, to in spec.sandbox.redirect.items()),
        *(("evidence", f"{e.kind} for {e.version} by {e.by}: {e.note}") for e in evidence),
        *(("check", line) for line in told_of(cli, spec, str(data["version"]))),
        *((f"policy: {role}", told) for role, told in data["policy"].items()),
        *(("not listed", reason) for reason in data["unavailable"]),
        *([("advice", data["advice"])] if data["advice"] else []),
    ]
    cli.show(data, Rows(("FACT", "VALUE"), rows))


def _summary(spec: ServerSpec, state: ServerState | None, host: HostFacts) -> dict[str, Any]:
    facts = facts_of(spec, state)
    verdict = decide(somebody(spec, Role.ADMIN), facts, host)
    return {
        "name": spec.name,
        "risk": spec.risk.value if spec.risk else None,
        "isolation": None if isinstance(verdict, Denial) else verdict.isolation.value,
        "version": facts.version,
        "groups": sorted(spec.groups),
        "enabled": facts.enabled,
        "warnings": [] if isinstance(verdict, Denial) else list(verdict.warnings),
    }


def _as_written(ground: "Ground", name: str) -> dict[str, Any]:
    """Return the entry of the file with its templates: a spec may hold values of the operator's."""
    document = parse(read_text(ground.live.path))
    servers = document.get("mcpServers") or document.get("servers") or {}
    entry = dict(servers.get(name) or {})
    if isinstance(entry.get("env"), dict):
        entry["env"] = {key: _hidden(value) for key, value in entry["env"].items()}
    if isinstance(entry.get("files"), dict):
        entry["files"] = dict.fromkeys(entry["files"], "…")
    if isinstance(entry.get("headers"), dict):
        entry["headers"] = {key: _hidden(value) for key, value in entry["headers"].items()}
    return entry


def _hidden(value: object) -> str:
    """Return a template as it is and any other text as `…`: it may be a secret of the operator's."""
    return str(value) if "${" in str(value) else "…"


def _runs(entry: dict[str, Any]) -> str:
    words = [entry.get("command", ""), *entry.get("args", [])]
    return " ".join(str(word) for word in words).strip() or str(entry.get("url", ""))
