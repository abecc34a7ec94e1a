"""Results as SARIF 2.1.0, which code scanning services and editors read. Pure.

Source: OASIS Static Analysis Results Interchange Format 2.1.0, §3.13 sarifLog, §3.27 result.
"""

from collections.abc import Sequence
from typing import Any

from mcphub import __version__
from mcphub.isolation.model import Finding, LeakClass, Observation, Result, Severity

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {Severity.HIGH: "error", Severity.MEDIUM: "warning", Severity.LOW: "note"}
_ABOUT = {
    LeakClass.TOKEN: "A call acts with a credential that is not the caller's.",
    LeakClass.STATE: "What one user did changes what another user sees.",
    LeakClass.FILESYSTEM: "A user reaches another user's files or undeclared ones.",
    LeakClass.HISTORY_CACHE: "A user can tell what another user did.",
    LeakClass.SECRET: "The server's environment can be read through it.",
    LeakClass.IDENTIFIER: "Another user's handle works.",
    LeakClass.NOTIFICATION: "Another user's events arrive.",
    LeakClass.RACE: "Answers are mixed up under concurrency.",
}


def sarif(results: Sequence[Result]) -> dict[str, Any]:
    """Return one SARIF log with one run."""
    rules = [{"id": leak.value, "shortDescription": {"text": _ABOUT[leak]}} for leak in LeakClass]
    driver = {"name": "mcphub check", "semanticVersion": __version__, "rules": rules}
    found = [_result(result, finding) for result in results for finding in result.findings]
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": found}],
    }


def _result(result: Result, finding: Finding) -> dict[str, Any]:
    name = f"{result.id} {result.version}".strip()
    return {
        "ruleId": finding.leak.value,
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{name}: {finding.title} {finding.remedy}".strip()},
        "locations": [
            {
                "logicalLocations": [
                    {"name": result.id, "kind": "module", "fullyQualifiedName": name}
                ]
            }
        ],
        "codeFlows": [{"threadFlows": [{"locations": [_step(seen) for seen in finding.trace]}]}]
        if finding.trace
        else [],
        "properties": {
            "confidence": finding.confidence,
            "seen": finding.seen,
            "control": finding.control,
        },
    }


def _step(seen: Observation) -> dict[str, Any]:
    said = f"{seen.user}: {seen.call.name or seen.call.method} {dict(seen.call.arguments)}"
    return {"location": {"message": {"text": f"{said} -> {seen.text[:400]}"}}}
