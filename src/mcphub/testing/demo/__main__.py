"""Command line of the demo; `make demo` runs it."""

import argparse
import sys
from pathlib import Path

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 0 when every row stands."""
    parser = argparse.ArgumentParser(
        prog="python -m mcphub.testing.demo",
        description="Prove with two users and real servers what leaks without the hub and not with it.",
    )
    parser.add_argument("--check", action="store_true", help="exit when the table is done")
    parser.add_argument(
        "--databases", action="store_true", help="also PostgreSQL and MariaDB (must be installed)"
    )
    parser.add_argument(
        "--dir", type=Path, default=Path(".demo"), help="kept between runs (default: .demo)"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the hub (default: a free one)")
    given = parser.parse_args(arguments)
    try:
        # The real client takes seconds to import; say something before.
        print("MCPHub demo: real servers, two users, the same steps twice.", flush=True)
        from mcphub.testing.demo.main import start  # noqa: PLC0415

        return start(given.dir.absolute(), given.port, databases=given.databases, check=given.check)
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
