"""The first process of a container, where nobody else takes that place.

Process 1 inherits whatever lost its parent, and has to take the exit status of each; a hub that did not
would keep an entry of the process table for every sandbox that ended, until none is left. It cannot do
it itself, since it must not take the statuses of its own children from those who wait for them. So the
hub runs as a child, and this process does nothing but that, pass signals on, and end as its child ends.
"""

import contextlib
import os
import signal
from typing import Final

FIRST: Final = 1
_SI_KERNEL: Final = 0x80
_OWN: Final = {signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP, signal.SIGCONT}


def give_way() -> None:
    """Go on in a child when this is process 1; the parent never returns. Before there are threads."""
    if os.getpid() != FIRST:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_watch_over(child))


def _watch_over(child: int) -> int:
    """Return the exit status of the child, 128 and the signal when one ended it; until then see to the rest."""
    while True:
        told = signal.sigwaitinfo(signal.valid_signals())
        if told.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        # what the terminal sends, it sends to the child too
        elif told.si_signo not in _OWN and told.si_code != _SI_KERNEL:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, told.si_signo)


def _reap(child: int) -> int | None:
    """Take the status of everything that has ended; returns that of the child, None while it lives."""
    found: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code
