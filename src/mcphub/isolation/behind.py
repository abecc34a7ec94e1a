"""`HubLab`: the same two users, but behind a hub, each with a key, an instance and a home there.

It stands in the place of `lab.Lab`: script and probes do not know the difference. Every start is two
new users, so nothing of an earlier run is theirs. The hub itself is the caller's (`Team`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mcphub.isolation.backends import detect
from mcphub.isolation.backends.kubeconfig import kubeconfig
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.credentials import Credential
from mcphub.isolation.model import USERS
from mcphub.isolation.place import Place
from mcphub.isolation.sessions import Sessions
from mcphub.isolation.subject import Subject, mentioned_paths
from mcphub.isolation.territory import Territory, give
from mcphub.isolation.witness.server import Witness


@dataclass(frozen=True, slots=True)
class Member:
    """One user of the hub: its key, and where its home for the server lies, of which kernel uid."""

    key: str
    home: Path
    uid: int


class Team(Protocol):
    """Makes users of a running hub."""

    async def member(self, server: str, credential: str) -> Member:
        """Return a new user whose every credential slot of the server holds `credential`."""
        ...


class HubLab(Place):
    """A server of a hub, in the form of a `Lab`.

    Args:
        subject: Name, version and the URL of the server's endpoint at the hub.
        witness: Where the server's connections end; entered by the caller.
        secrets: What the witness looks for.
        team: Makes users.
    """

    behind_hub = True
    proves = True

    def __init__(
        self, subject: Subject, witness: Witness, secrets: Canaries[str], team: Team
    ) -> None:
        line = " ".join(subject.argv).lower()
        mentioned = mentioned_paths([*subject.argv, *subject.env.values()])
        territory = Territory.plan(mentioned, repository="git" in line or "repo" in line)
        # what servers may write or reach behind a hub is the settings' business
        super().__init__(subject, witness, secrets, territory)
        self._team = team

    @asynccontextmanager
    async def start(self, *, with_a: bool) -> AsyncIterator[Sessions]:
        """Make two new users, fill their homes, and end their sessions at the end."""
        members: dict[str, Member] = {}
        for user in USERS:
            sentinel = self.secrets.plant(f"user:{user}", mint())
            members[user] = await self._team.member(self.subject.id, sentinel)
            home = members[user].home
            await asyncio.to_thread(home.mkdir, 0o700, True, True)
            owner = user if user == "B" or with_a else ""
            plan = self.territory
            for path in detect.kubeconfigs(self.subject.argv[1:], self.subject.env):
                own = Credential(f"user:{user}", sentinel, sentinel)
                plan = plan.with_file(path, kubeconfig(own, str(self.witness.authority.ca_file)))
            await asyncio.to_thread(plan.lay_for, home, owner)
            give(home, members[user].uid)
        self.starts += 1
        keys = {user: {"Authorization": f"Bearer {m.key}"} for user, m in members.items()}
        running = Sessions(
            self.witness, self.subject.url, keys, self._tasks, who="The hub", waits=True
        )
        try:
            yield running
        finally:
            self.calls += running.calls
            await running.aclose()
