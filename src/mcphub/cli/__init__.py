"""The command line `mcphub`.

`connect` is dispatched before anything heavy is imported, because clients start it and wait for its
first answer; every other command is in `cli.commands`.
"""

import sys


def main() -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        return _run(sys.argv[1:])
    except KeyboardInterrupt:  # most of a short command's time goes into imports
        return 130


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] == "connect":
        from mcphub.cli.connect import main as connect  # noqa: PLC0415  start-up time

        return connect(arguments[1:])
    from mcphub.cli.commands import run  # noqa: PLC0415  start-up time

    return run(arguments)
