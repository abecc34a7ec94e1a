"""Results as one self-contained HTML page: no script, nothing loaded. Pure.

Everything of a server's is text here: escaped, never markup.
"""

from collections.abc import Sequence
from html import escape

from mcphub.isolation.model import Finding, Observation, Result, Verdict

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem;
border-bottom: 1px solid var(--line); vertical-align: top; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--soft); padding: .6rem; }
.leak { color: #c0392b; } .no_leak_seen { color: #218a4a; } .inconclusive { color: #b07400; }
section { border-top: 1px solid var(--line); } .user { font-weight: 700; }
"""
_WORDS = {
    Verdict.LEAK: "✗ leak",
    Verdict.NO_LEAK_SEEN: "✓ no leak seen",
    Verdict.INCONCLUSIVE: "? inconclusive",
}
_SAFE = {True: "yes", False: "no", None: "not known"}


def page(results: Sequence[Result]) -> str:
    """Return the page."""
    rows = "".join(_row(result) for result in results)
    parts = "".join(_section(result) for result in results)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Isolation check</title><style>{_STYLE}</style></head><body>"
        "<h1>Isolation check</h1><table><thead><tr><th>server</th><th>version</th><th>verdict</th>"
        f"<th>classes</th><th>safe to share</th><th>tools</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{parts}</body></html>"
    )


def _row(result: Result) -> str:
    covered = f"{len(result.coverage.succeeded)} of {result.coverage.tools}"
    return (
        f"<tr><td>{escape(result.id)}</td><td>{escape(result.version)}</td>"
        f'<td class="{result.verdict.value}">{_WORDS[result.verdict]}</td>'
        f"<td>{escape(', '.join(result.classes))}</td><td>{_SAFE[result.safe_to_share]}</td>"
        f"<td>{covered}</td></tr>"
    )


def _section(result: Result) -> str:
    coverage = result.coverage
    findings = "".join(_finding(finding) for finding in result.findings)
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    skipped = (
        f"<p>Not called, they look destructive: {escape(', '.join(coverage.skipped))}.</p>"
        if coverage.skipped
        else ""
    )
    return (
        f"<section><h2>{escape(result.id)} {escape(result.version)}</h2>"
        f'<p class="{result.verdict.value}">{_WORDS[result.verdict]}: {escape(result.reason)}</p>'
        f"{findings}<p>{len(coverage.succeeded)} of {coverage.tools} tools were called with success, in "
        f"{coverage.calls} calls and {coverage.starts} starts, in {result.seconds:.0f} s. "
        f"Probes: {escape(', '.join(coverage.probes))}.</p>{skipped}"
        f"{f'<ul>{notes}</ul>' if notes else ''}</section>"
    )


def _finding(finding: Finding) -> str:
    trace = "".join(_step(seen) for seen in finding.trace)
    return (
        f"<h3>{finding.leak.value} · {finding.severity.value}</h3><p>{escape(finding.title)}</p>"
        f"<pre>{trace}</pre><table><tr><th>B saw</th><td>{escape(finding.seen)}</td></tr>"
        f"<tr><th>without A</th><td>{escape(finding.control)}</td></tr>"
        f"<tr><th>confidence</th><td>{finding.confidence:.2f}, shown again {finding.reproduced}x</td></tr>"
        f"<tr><th>remedy</th><td>{escape(finding.remedy)}</td></tr></table>"
    )


def _step(seen: Observation) -> str:
    what = f"{seen.call.name or seen.call.method} {dict(seen.call.arguments)}"
    return (
        f'<span class="user">{escape(seen.user)}</span> {escape(what)}\n'
        f"  → {escape(seen.text[:600])}\n"
    )
