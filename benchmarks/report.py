"""What a run says: the table of figures, the budgets, the chart, and the page in docs/."""

import statistics
from math import log10
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Cell = tuple[str, str, int]
"""Row, endpoint, sessions."""
Result = dict[str, Any]

QUIET_CORES = 0.15
"""Foreign load, in cores, up to which a round is quiet."""
DOCS = Path(__file__).resolve().parent.parent / "docs" / "reference"
_BEGIN, _END = "<!-- begin: written by make bench -->", "<!-- end: written by make bench -->"
_COLOURS = {"hub": "#2563eb", "nginx": "#64748b", "direct": "#94a3b8"}
_OTHER = "#d97706"


def text(result: Result) -> str:
    """Return everything as Markdown."""
    machine, versions = result["machine"], result["versions"]
    where = (
        f"{result['date']}; {machine['cores']} cores of {machine['processor']}, Linux "
        f"{machine['kernel'].split('-')[0]}, Python {machine['python']}; {result['rounds']} rounds of "
        f"{result['seconds']:g} s for each figure."
    )
    used = "Versions: " + "; ".join(f"{name}: {version}" for name, version in versions.items())
    parts = [where, f"{used}.", _table(result["rows"]), _budgets(result["rows"])]
    return "\n\n".join(part for part in parts if part)


def _table(rows: list[Row]) -> str:
    lines = [
        "| row | endpoint | sessions | calls/s | p50 ms | p99 ms | CPU µs/call | server µs/call | MB idle → then |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        head = f"| {row['row']} | {row['endpoint']} | {row['sessions']} |"
        if "calls_per_s" not in row:
            lines.append(f"{head} {row.get('broken', 'not measured')[:80]} | | | | | |")
            continue
        about = "" if row["quiet_rounds"] else "~"
        lines.append(
            f"{head} {about}{row['calls_per_s']:,.0f} | {about}{row['p50_ms']:.3f} "
            f"| {about}{row['p99_ms']:.1f} | {row['cpu_us']:,.0f} | {row['server_cpu_us']:,.0f} "
            f"| {row['idle_mb']:.0f} → {row['pss_mb']:.0f} |"
        )
    return "\n".join(lines)


class _Figures:
    """Figures by row, endpoint and sessions; what is missing makes a budget "not measured"."""

    def __init__(self, rows: list[Row]) -> None:
        self._found = {(row["row"], row["endpoint"], row["sessions"]): row for row in rows}
        self.noisy = False

    def of(self, what: str, row: str, endpoint: str, sessions: int) -> float:
        found = self._found[row, endpoint, sessions]
        if what not in {"cpu_us", "idle_mb", "pss_mb"} and not found["quiet_rounds"]:
            self.noisy = True
        return float(found[what])

    def ratio(self, what: str, over: Cell, under: Cell) -> float:
        """Return the median of the rounds' ratios: what other machines do changes between two of them."""
        rounds = list(
            zip(self._found[over]["samples"], self._found[under]["samples"], strict=False)
        )
        if what != "cpu_us":
            quiet = [
                both for both in rounds if all(one["foreign_cores"] <= QUIET_CORES for one in both)
            ]
            if not quiet:
                self.noisy = True
                return self.of(what, *over) / self.of(what, *under)
            rounds = quiet
        return statistics.median(first[what] / second[what] for first, second in rounds)


def _budgets(rows: list[Row]) -> str:
    """Return the budgets of the relay, each with what this run says.

    Targets in µs and ms were set on one machine: there direct took 21 µs for a call, nginx 0.53 ms of CPU
    for 1 MB and a p99 of 5 ms at 64 sessions. Below each stands the same target as a ratio to them.
    """
    figures = _Figures(rows)
    small = "100 B"

    def ratio(what: str, other: str, sessions: int, row: str = small) -> float:
        return figures.ratio(what, (row, "hub", sessions), (row, other, sessions))

    def cpu(row: str, sessions: int, other: str) -> float:
        return figures.ratio("cpu_us", (row, "hub", sessions), (other, "hub", 16))

    def own(what: str, other: str) -> float:
        return figures.ratio(what, ("own processes", "hub", 64), (small, other, 64))

    budgets = [
        ("p50, 1 session: ÷ direct", 3.5, "≤", lambda: ratio("p50_ms", "direct", 1)),
        ("p50, 1 session: ÷ nginx", 1.7, "≤", lambda: ratio("p50_ms", "nginx", 1)),
        ("CPU µs per call, 16 sessions", 45, "≤", lambda: figures.of("cpu_us", small, "hub", 16)),
        ("CPU per call, 16 sessions: ÷ direct (45 µs where it takes 21)", 2.14, "≤", lambda: ratio("cpu_us", "direct", 16)),
        ("CPU per call, 16 sessions: ÷ nginx", 1.5, "≤", lambda: ratio("cpu_us", "nginx", 16)),
        ("calls/s, 16 sessions: ÷ nginx", 0.7, "≥", lambda: ratio("calls_per_s", "nginx", 16)),
        ("calls/s, 64 sessions: ÷ nginx", 0.7, "≥", lambda: ratio("calls_per_s", "nginx", 64)),
        ("calls/s, 16 sessions: ÷ FastMCP", 20, "≥", lambda: ratio("calls_per_s", "fastmcp", 16)),
        ("64 own processes, calls/s: ÷ supergateway", 4, "≥", lambda: own("calls_per_s", "supergateway")),
        ("p99 ms, 64 sessions, shared process", 10, "≤", lambda: figures.of("p99_ms", small, "hub", 64)),
        ("p99, 64 sessions, shared process: ÷ nginx (10 ms where it has 5)", 2, "≤", lambda: ratio("p99_ms", "nginx", 64)),
        ("p99 ms, 64 own processes", 25, "≤", lambda: figures.of("p99_ms", "own processes", "hub", 64)),
        ("p99, 64 own processes: ÷ nginx (25 ms where it has 5)", 5, "≤", lambda: own("p99_ms", "nginx")),
        ("1 MB: CPU ms per call", 3, "≤", lambda: figures.of("cpu_us", "1 MB", "hub", 1) / 1000),
        ("1 MB, CPU: ÷ nginx (3 ms where it takes 0.53)", 5.7, "≤", lambda: ratio("cpu_us", "nginx", 1, "1 MB")),
        ("16 MB: answered (1 = yes)", 1, "≥", lambda: float(figures.of("p50_ms", "16 MB", "hub", 1) > 0)),
        ("200 of 1,000 users, CPU: ÷ one user", 1.3, "≤", lambda: cpu("200 of 1,000 users", 200, "one user")),
        ("modern era, CPU: ÷ legacy", 1.15, "≤", lambda: cpu("100 B, modern", 16, small)),
        ("/mcp, CPU: ÷ /mcp/{server}", 1.3, "≤", lambda: cpu("aggregated", 16, "one user")),
        ("hub MB, idle", 90, "≤", lambda: figures.of("idle_mb", small, "hub", 64)),
        ("hub MB, 64 sessions", 120, "≤", lambda: figures.of("pss_mb", small, "hub", 64)),
    ]  # fmt: skip
    lines = ["| budget | target | this run | |", "|---|--:|--:|---|"]
    for name, target, sign, figure in budgets:
        figures.noisy = False
        try:
            value = figure()
        except (KeyError, ZeroDivisionError):
            continue
        kept = value <= target if sign == "≤" else value >= target
        about = "~" if figures.noisy else ""
        lines.append(
            f"| {name} | {sign} {target:g} | {about}{value:.2f} | {'kept' if kept else '**missed**'} |"
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def chart(rows: list[Row]) -> str:
    """Return the gateways' CPU per call at 16 sessions as an SVG, on a logarithmic scale."""
    shown = sorted(
        (
            row
            for row in rows
            if row["row"] == "100 B" and row["sessions"] == 16 and "cpu_us" in row
        ),
        key=lambda row: row["cpu_us"],
    )
    left, width, bar, gap, top = 150, 420, 20, 10, 44
    height = top + len(shown) * (bar + gap) + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" width="680" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13" role="img" '
        'aria-label="CPU time of the gateway for each call">',
        f'<rect width="680" height="{height}" fill="#ffffff"/>',
        '<text x="12" y="24" fill="#0f172a" font-size="15">CPU time of the gateway per call, in µs '
        "(100 bytes, 16 sessions, logarithmic)</text>",
    ]
    scale = _scale(shown, width)
    for index, row in enumerate(shown):
        y = top + index * (bar + gap)
        colour = _COLOURS.get(row["endpoint"], _OTHER)
        length = scale(row["cpu_us"])
        parts += [
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" fill="#0f172a">{row["endpoint"]}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.0f}" height="{bar}" rx="2" fill="{colour}"/>',
            f'<text x="{left + length + 6:.0f}" y="{y + 15}" fill="#0f172a">{row["cpu_us"]:,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def _scale(rows: list[Row], width: int) -> Any:
    longest = max((row["cpu_us"] for row in rows), default=10.0)
    low = log10(5)
    span = max(log10(longest) - low, 0.1)
    return lambda value: max(2.0, (log10(max(value, 5.1)) - low) / span * width)


def write_docs(result: Result) -> None:
    """Write the table into docs/reference/performance.md, and the chart beside it."""
    page = DOCS / "performance.md"
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n\n{text(result)}\n\n{_END}{after}")
    (DOCS / "relay-cpu.svg").write_text(chart(result["rows"]))
