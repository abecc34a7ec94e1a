"""Whose task is where: ids of tasks that servers announced, so that later requests reach that server.

A task id names no server and no user. At an endpoint of several servers it is the only thing that says
where `tasks/get` goes; on a server that several users share it must work for its user only (rule R3).
Bounded; the oldest are forgotten first.
"""

from collections import OrderedDict
from typing import Final

from mcphub.wire.envelope import Message
from mcphub.wire.extensions import new_task

_KEPT: Final = 50_000


class TaskOwners:
    """Remembers (user, task id) -> the servers that announced it to that user."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], frozenset[str]] = OrderedDict()

    def take(self, user_id: str, server: str, answer: Message) -> None:
        """Remember the task that an answer of a server announces to a user, if it does."""
        task_id = new_task(answer.members.get("result", b""))
        if not task_id:
            return
        key = (user_id, task_id)
        self._known[key] = self._known.pop(key, frozenset()) | {server}
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def servers(self, user_id: str, task_id: str) -> frozenset[str]:
        """Return the servers that gave this user a task of this id."""
        return self._known.get((user_id, task_id), frozenset())
