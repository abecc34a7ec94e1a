"""A result as JSON and as text for a terminal. Others: `sarif`, `page`."""

from typing import Any

from mcphub.isolation.model import Finding, Observation, Result

_SHORT = 500


def as_json(result: Result) -> dict[str, Any]:
    """Return a result as one JSON object; the form of `--json` and of each line of a manifest run."""
    coverage = result.coverage
    return {
        "id": result.id,
        "version": result.version,
        "verdict": result.verdict.value,
        "safe_to_share": result.safe_to_share,
        "reason": result.reason,
        "classes": list(result.classes),
        "findings": [_finding(finding) for finding in result.findings],
        "coverage": {
            "tools": coverage.tools,
            "tried": list(coverage.tried),
            "succeeded": list(coverage.succeeded),
            "skipped": list(coverage.skipped),
            "resources": coverage.resources,
            "prompts": coverage.prompts,
            "calls": coverage.calls,
            "starts": coverage.starts,
            "probes": list(coverage.probes),
            "undone": list(coverage.undone),
            "share": round(coverage.share, 2),
        },
        "identity": result.identity,
        "seconds": result.seconds,
        "recommendation": dict(result.recommendation),
        "notes": list(result.notes),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "class": finding.leak.value,
        "severity": finding.severity.value,
        "title": finding.title,
        "trace": [_observation(seen) for seen in finding.trace],
        "seen": finding.seen,
        "control": finding.control,
        "confidence": finding.confidence,
        "reproduced": finding.reproduced,
        "arrangement": finding.arrangement.value,
        "remedy": finding.remedy,
    }


def _observation(seen: Observation) -> dict[str, Any]:
    return {
        "user": seen.user,
        "method": seen.call.method,
        "name": seen.call.wire_name,
        "arguments": dict(seen.call.arguments),
        "ok": seen.ok,
        "text": seen.text[:_SHORT],
        "upstream": [
            {"host": a.host, "path": a.path, "credentials": sorted(a.credentials)}
            for a in seen.egress[:5]
        ],
    }
