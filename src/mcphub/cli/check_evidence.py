"""What follows from a check of a server of the settings: kept result, patch, evidence for sharing."""

import json
from typing import TYPE_CHECKING, Any

from mcphub.audit import log
from mcphub.catalog.spec import CHECKED_SETTINGS, ServerSpec
from mcphub.catalog.states import CHECK
from mcphub.cli.servers_file import patch_server
from mcphub.cli.shell import CLI, Cli
from mcphub.cli.values import when
from mcphub.isolation.evidence import Checks, differences
from mcphub.isolation.model import Result, Verdict
from mcphub.isolation.report import as_json
from mcphub.policy.model import Evidence

if TYPE_CHECKING:
    from mcphub.ground import Ground

# Slots and egress need decisions of their own, so they are shown only.
_APPLIED = ("riskLevel", "requiresUserIsolation", "isolation", "userAware")


def checks_of(cli: Cli) -> Checks:
    """Return the kept results of the hub."""
    return Checks(cli.settings().dir / "checks" / "results")


def told_of(cli: Cli, spec: ServerSpec, version: str) -> list[str]:
    """Return the newest check of a server in a line, and whether it speaks of what would run."""
    kept = next(iter(checks_of(cli).of(spec.name)), None)
    if kept is None:
        return [f"never: mcphub check {spec.name}"]
    current = (kept.version, kept.revision) == (version, spec.revision)
    fresh = "" if current else " (of another version or other settings: check again)"
    return [f"{kept.told} for {kept.version} on {when(kept.at)}{fresh}"]


async def keep(
    cli: Cli, ground: "Ground", spec: ServerSpec, result: Result, *, compare: bool
) -> None:
    """Keep a result, and say what changed since the one before."""
    checks = checks_of(cli)
    before = next(iter(checks.of(spec.name)), None)
    checks.keep(spec.name, spec.revision, result, ground.clock())
    if compare:
        if before is None:
            cli.note(f"{spec.name}: there is no earlier result.")
            return
        told = differences(before.result, as_json(result))
        cli.note(
            f"{spec.name}: {'; '.join(told) if told else 'nothing changed since the last check.'}"
        )


async def apply(cli: Cli, ground: "Ground", spec: ServerSpec, result: Result, *, yes: bool) -> None:
    """Write what a result recommends into the settings, and record or withdraw evidence."""
    patch: dict[str, Any] = {
        key: value for key, value in result.recommendation.items() if key in _APPLIED
    }
    if not patch:
        cli.note(f"{spec.name}: the check is {result.verdict.value}: nothing to apply.")
        return
    shares = result.verdict is Verdict.NO_LEAK_SEEN and result.safe_to_share is True
    cli.note(f"{spec.name}: {json.dumps(patch)}")
    question = f"Write this into mcp_settings.json for {spec.name} {result.version}?"
    cli.confirm(question, yes=yes)
    settings = cli.settings()
    patch_server(settings.servers_file, spec.name, patch, settings.operator_env)
    proof = None
    if shares:
        coverage = result.coverage
        note = f"{len(coverage.succeeded)} of {coverage.tools} tools, {coverage.calls} calls"
        proof = Evidence(
            CHECK, result.version, f"{CHECKED_SETTINGS}{spec.revision[:32]}", ground.clock(), note
        )
    detail = {"version": result.version, "verdict": result.verdict.value}
    async with ground.db.together():
        if proof is not None:
            await ground.states.record(spec.name, proof)
        else:
            await ground.states.withdraw(spec.name, result.version)
        await ground.audit.write(CLI, log.SERVER_CHECKED, spec.name, detail)
    await cli.applied()
    cli.note(f"{spec.name}: written.")
