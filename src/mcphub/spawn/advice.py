"""What an administrator should change, told by what servers say: that one writes beside its code.

The package store is read-only for everybody. Whoever calls such a server gets its own words, unchanged:
some error with a path that means nothing to a user. So it is looked for in errors only, said once in the
log, and kept for `mcphub server show` until the server's settings or its version change.
"""

import re
from typing import Final

import structlog

from mcphub.catalog.packages import is_installation
from mcphub.spawn.instance import Instance

OWN_PACKAGE: Final = (
    "It tries to write beside its code, which is read-only. Tell it by its settings where to write, if it has "
    'one for that; else give each user an own copy of its package: "sandbox": {"ownPackage": true}.'
)
_MOST: Final = 64 * 1024
# what Node.js, Python and libraries say before the path; a recursive mkdir in Node.js says ENOENT
_REFUSED: Final = (
    r"(?:\bEROFS\b|\bEACCES\b|\bEPERM\b|read-?only file ?system|permission denied"
    r"|\bENOENT\b[^\n]{0,60}\bmkdir\b)[^\n]{0,400}?"
)
_log = structlog.get_logger()


class Advice:
    """What was noticed, by server. Bounded by the number of servers."""

    def __init__(self) -> None:
        self._noticed: dict[str, str] = {}

    def look(self, instance: Instance, said: bytes) -> str:
        """Take what an instance said when something failed; returns the advice that follows from it, or ""."""
        text = said[:_MOST].decode("utf-8", "replace")
        if not _writes_beside_its_code(instance, text):
            return ""
        if instance.server not in self._noticed:
            _log.warning("server.cannot_write", server=instance.server, next_step=OWN_PACKAGE)
            self._noticed[instance.server] = OWN_PACKAGE
        return OWN_PACKAGE

    def forget(self, server: str) -> None:
        """Drop what was noticed of a server: it is another one from now on."""
        self._noticed.pop(server, None)

    def all(self) -> dict[str, str]:
        """Return server -> advice."""
        return dict(self._noticed)


def _writes_beside_its_code(instance: Instance, text: str) -> bool:
    code = instance.code
    if code is None or code.name not in text:
        return False
    place = next((parent for parent in (code, *code.parents) if is_installation(parent)), code)
    # stderr is shown without the directories above (`stderr.names_of`)
    written = code.relative_to(place.parent).as_posix()
    return (
        re.search(_REFUSED + rf"/{re.escape(written)}(?![\w.-])", text, re.IGNORECASE) is not None
    )
