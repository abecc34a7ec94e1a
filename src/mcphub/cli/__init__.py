"""The command line `mcphub`.

`connect` is dispatched before anything heavy is imported, because clients start it and wait for its
first answer; every other command is in `cli.commands`.
"""

import os
import signal
import sys

from mcphub.cli.first import give_way


def main() -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _take_a_stand()
    give_way()
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


def _take_a_stand() -> None:
    """Make what a process inherits the usual, whoever started this one.

    A standard descriptor that is closed would be given to the next file that is opened: the database
    would get what libraries write to stderr. Signals that are blocked stay so in every child, and a hub
    would not hear TERM.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  for good
