"""Whose task is where: ids of tasks that servers announced, so that later requests reach that server.

A task id names no server and no user. At an endpoint of several servers it is the only thing that says
where `tasks/get` goes; on a server that several users share it must work for its user only (rule R3).
Bounded for each user; the oldest are forgotten first.
"""

from collections import OrderedDict
from typing import Final

from mcphub.wire.envelope import Message
from mcphub.wire.extensions import new_task

_KEPT: Final = 2_000
_LONGEST: Final = 1024


class TaskOwners:
    """Remembers (user, task id) -> the servers that announced it to that user."""

    def __init__(self) -> None:
        self._of_user: dict[str, OrderedDict[str, frozenset[str]]] = {}

    def take(self, user_id: str, server: str, answer: Message) -> None:
        """Remember the task that an answer of a server announces to a user, if it does."""
        task_id = new_task(answer.inner("result"))
        if not task_id or len(task_id) > _LONGEST:
            return
        known = self._of_user.setdefault(user_id, OrderedDict())
        known[task_id] = known.pop(task_id, frozenset()) | {server}
        if len(known) > _KEPT:
            known.popitem(last=False)

    def servers(self, user_id: str, task_id: str) -> frozenset[str]:
        """Return the servers that gave this user a task of this id."""
        return self._of_user.get(user_id, {}).get(task_id, frozenset())
