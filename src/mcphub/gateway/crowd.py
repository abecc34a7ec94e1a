"""How many connections clients may have, in all and for one user.

A connection is nobody's until a request on it has proven whose it is; it may be another user's
later (a reverse proxy's). Where there are too many, those end first that nobody waits for, so that one user's
connections, or a stranger's, never keep another user out.
"""

from typing import Final, Protocol

from mcphub.errors import LimitExceeded

NOBODY: Final = ""


class Connection(Protocol):
    """What is counted.

    Attributes:
        owner: Id of the user whose last request it carried, `NOBODY`, or None when it is not counted.
        recent: It carried a request of its owner since the crowd looked last who is silent.
        waiting: Bytes of answers that have not been handed to it yet.
    """

    owner: str | None
    recent: bool
    waiting: int

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything on it."""
        ...

    def end(self) -> None:
        """Close it."""
        ...


class Crowd:
    """All connections of clients, those first in each user's that have been silent for longest.

    A request only marks its connection, and the order is mended when one has to end ("second chance").

    Args:
        total: Connections in all.
        per_user: Connections of one user.
    """

    def __init__(self, total: int, per_user: int) -> None:
        self._total, self._per_user = total, per_user
        self._of: dict[str, dict[Connection, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def enter(self, connection: Connection) -> None:
        """Count a new connection; beyond the total another one ends for it."""
        if self._count >= self._total:
            self._end_one()
        self._put(connection, NOBODY)

    def claim(self, connection: Connection, user_id: str) -> None:
        """Count a connection as a user's from now on: a request of theirs came on it.

        Raises:
            LimitExceeded: The user has too many, and waits for an answer on each.
        """
        owner = connection.owner
        if owner == user_id:
            connection.recent = True
        elif owner is not None:
            own = self._of.get(user_id, {})
            if len(own) >= self._per_user:
                idle = _longest_idle(own)
                if idle is None:
                    raise LimitExceeded(
                        "You have as many connections open as you may.",
                        hint="Close some, or ask an administrator to raise "
                        "`limits.connections_per_user`.",
                        retry_after_s=5,
                    )
                self._end(idle)
            self.leave(connection)
            self._put(connection, user_id)

    def leave(self, connection: Connection) -> None:
        """Count a connection no more. Idempotent."""
        if connection.owner is not None:
            own = self._of[connection.owner]
            del own[connection]
            if not own:
                del self._of[connection.owner]
            connection.owner = None
            self._count -= 1

    def _put(self, connection: Connection, owner: str) -> None:
        connection.owner, connection.recent = owner, False
        self._of.setdefault(owner, {})[connection] = None
        self._count += 1

    def _end_one(self) -> None:
        """End one of the user who has most; strangers count as one user."""
        most = max(self._of.values(), key=len)
        self._end(_longest_idle(most) or next(iter(most)))

    def _end(self, connection: Connection) -> None:
        self.leave(connection)
        connection.end()


def _longest_idle(own: dict[Connection, None]) -> Connection | None:
    """Return the one of a user's that nobody waits for and that is silent for longest; recent ones go behind the others."""
    recent: list[Connection] = []
    found = None
    for one in own:
        if one.idle:
            if not one.recent:
                found = one
                break
            recent.append(one)
    for one in recent:
        one.recent = False
        del own[one]
        own[one] = None
    return found or next(iter(recent), None)
