"""The scenarios: the same steps over one shared server and through the hub.

`play` gets two connections and does not know which kind they are. Over a shared server both are
the same process; through the hub each belongs to one user. Every play checks its own
preconditions, so that "no leak" never means "nothing worked".
"""

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from mcphub.testing.demo import packages
from mcphub.testing.demo.clients import Connection, shared_process, through_hub
from mcphub.testing.demo.observation import CouldNotRun, Observation
from mcphub.testing.github_standin import HOST, GitHubStandIn, alias


@dataclass(frozen=True, slots=True)
class Bench:
    """What a shared server is started with.

    Attributes:
        packages: The plain copies.
        work: Fresh directory of this run.
        github: The stand-in.
        github_tokens: The two users' GitHub tokens, alice's first.
    """

    packages: packages.PlainPackages
    work: Path
    github: GitHubStandIn
    github_tokens: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """One user of the hub: name, id, key, and where the hub keeps the user's data on the host."""

    name: str
    user_id: str
    key: str
    home: Path


@dataclass(frozen=True, slots=True)
class Team:
    """The hub as its two users see it.

    Attributes:
        url: `http://127.0.0.1:PORT`.
        alice, bob: The users.
    """

    url: str
    alice: Member
    bob: Member

    @asynccontextmanager
    async def connected(self, server: str) -> AsyncIterator[tuple[Connection, Connection]]:
        """Connect both users to a server by the real client."""
        url = f"{self.url}/mcp/{server}"
        async with through_hub(url, self.alice.key) as a, through_hub(url, self.bob.key) as b:
            yield a, b


def canary() -> str:
    """Return 128 random bits as a word that survives case folding, SQL and JSON."""
    return "c" + secrets.token_hex(16)


class Scenario(ABC):
    """One claim of the demo.

    Attributes:
        key: Short stable name.
        title: What is at stake.
        package: The published server, with its version.
        server: Its name in `mcp_settings.json`.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    server: ClassVar[str]

    async def before(self, bench: Bench) -> Observation:
        """Play over one shared server process."""
        work = bench.work / self.key
        work.mkdir(parents=True, exist_ok=True)
        async with self.shared(bench, work) as (alice, bob):
            return await self.play(alice, bob)

    async def after(self, team: Team) -> Observation:
        """Play through the hub."""
        async with team.connected(self.server) as (alice, bob):
            return await self.play(alice, bob)

    @asynccontextmanager
    async def shared(
        self, bench: Bench, work: Path
    ) -> AsyncIterator[tuple[Connection, Connection]]:
        """Start the one server of `before`; both users get the same connection."""
        argv, env = self.launch(bench, work)
        home = {"HOME": str(work)}
        async with shared_process(
            argv, env=home | env, cwd=work, log=work / "stderr.log"
        ) as connection:
            yield connection, connection

    @abstractmethod
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        """Return command line and environment of the shared server."""

    @abstractmethod
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        """Take the steps and say what was seen."""


class Token(Scenario):
    """Whose token arrives at the API? The witness is the API's stand-in, not the server."""

    key, title = "token", "Bob's call to GitHub"
    package, server = packages.GITHUB, "github"

    def __init__(self, github: GitHubStandIn, tokens: tuple[str, str]) -> None:
        self._github = github
        self._own = (alias(tokens[0]), alias(tokens[1]))

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        hook = work / "redirect.cjs"
        hook.write_text(_REDIRECT % {"host": json.dumps(HOST), "port": bench.github.port})
        env = {
            "GITHUB_PERSONAL_ACCESS_TOKEN": bench.github_tokens[0],
            "NODE_EXTRA_CA_CERTS": str(bench.github.ca_file),
            "NODE_OPTIONS": f"--require {json.dumps(str(hook))}",
        }
        return bench.packages.node_argv(self.package), env

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        arrived: list[str] = []
        for user in (alice, bob):
            query = canary()
            await user.must("search_repositories", {"query": query})
            seen = {arrival.caller for arrival in self._github.arrivals(query)}
            if len(seen) != 1:
                raise CouldNotRun(f"the stand-in saw {len(seen)} callers for one search")
            arrived.append(seen.pop())
        leaked = (arrived[0], arrived[1]) != self._own
        return Observation(
            leaked,
            f"alice's call arrived with {self._whose(arrived[0])},"
            f" bob's with {self._whose(arrived[1])}",
        )

    def _whose(self, caller: str) -> str:
        owners = dict(zip(self._own, ("alice's token", "bob's token"), strict=True))
        return f"{owners.get(caller, 'an unknown token')} ({caller})"


# The package itself stays untouched: Node connects elsewhere when it asks for the API's host.
_REDIRECT = """\
const tls = require('node:tls');
const connect = tls.connect;
tls.connect = function (options, ...rest) {
  if (options && options.host === %(host)s) {
    options = { ...options, host: '127.0.0.1', port: %(port)d, servername: %(host)s };
  }
  return connect.call(this, options, ...rest);
};
"""


class WorkingDirectory(Scenario):
    """A server that remembers the repository it was told to work in."""

    key, title = "git", "Git working directory"
    package, server = packages.GIT, "git"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        env = {"MCP_TRANSPORT_TYPE": "stdio", "GIT_BASE_DIR": str(work)}
        return bench.packages.node_argv(self.package), env

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        hers, his = canary(), canary()
        await self._work_in(alice, hers)
        unasked = await bob.call("git_status")
        await self._work_in(bob, his)
        back = await alice.call("git_status")
        if hers in unasked.text:
            return Observation(True, f"bob's git_status showed alice's branch {hers[:9]}…")
        if hers not in back.text:
            return Observation(True, f"alice was moved into bob's repository {his[:9]}…")
        return Observation(False, f"bob: “{unasked.brief[:60]}”; alice still in her own")

    async def _work_in(self, user: Connection, branch: str) -> None:
        made = await user.must("git_init", {"path": branch, "initialBranch": branch})
        await user.must("git_set_working_dir", {"path": json.loads(made.text)["path"]})
        status = await user.must("git_status")
        if branch not in status.text:
            raise CouldNotRun("git_status does not show the branch that was just made")


class Interpreter(Scenario):
    """Base of the scenarios with the Python REPL server: no check of its own stands in the way."""

    package, server = packages.PYTHON, "python"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        return [*bench.packages.python_argv(self.package), "--dir", str(work)], {}

    @staticmethod
    async def execute(user: Connection, code: str) -> str:
        """Run code in the user's REPL and return what it printed."""
        arguments = {"code": code, "execution_mode": "inline"}
        return (await user.must("run_python_code", arguments)).text


class Variable(Interpreter):
    """State that lives in the process: a REPL variable."""

    key, title = "variable", "Variable in a REPL"

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        word, name = canary(), canary()
        await self.execute(alice, f"{name} = {word!r}")
        if word not in await self.execute(alice, f"print({name})"):
            raise CouldNotRun("alice does not see her own variable")
        seen = await self.execute(bob, f"print({name})")
        if word in seen:
            return Observation(True, f"bob printed alice's variable: {word[:9]}…")
        if "NameError" not in seen:
            raise CouldNotRun(f"bob's REPL answered neither value nor NameError: {seen[-120:]}")
        return Observation(False, "bob's REPL: NameError, no such variable")


class Files(Scenario):
    """One directory for all: what alice writes, bob reads."""

    key, title = "files", "Alice's file"
    package, server = packages.FILESYSTEM, "files"

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        root = work / "shared"
        root.mkdir(exist_ok=True)
        return [*bench.packages.node_argv(self.package), str(root)], {}

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        return await self._play(alice, bob, None)

    @override
    async def after(self, team: Team) -> Observation:
        async with team.connected(self.server) as (alice, bob):
            return await self._play(alice, bob, team.alice.home / self.server)

    async def _play(self, alice: Connection, bob: Connection, on_host: Path | None) -> Observation:
        word = canary()
        name = f"{canary()}.txt"
        path = f"{await self._root(alice)}/{name}"
        await alice.must("write_file", {"path": path, "content": word})
        if word not in (await alice.must("read_text_file", {"path": path})).text:
            raise CouldNotRun("alice cannot read her own file")
        listing = await bob.must("list_directory", {"path": await self._root(bob)})
        answers = [await bob.call("read_text_file", {"path": path})]
        if on_host is not None:
            answers.append(
                await bob.call("read_text_file", {"path": str(existing(on_host / name))})
            )
        if any(word in answer.text for answer in answers):
            return Observation(True, f"bob read alice's file: {word[:9]}…")
        if name in listing.text:
            return Observation(True, "bob saw the name of alice's file")
        return Observation(
            False, "own directory each; by her path and by its path on the host: refused"
        )

    @staticmethod
    async def _root(user: Connection) -> str:
        answer = await user.must("list_allowed_directories")
        return answer.text.splitlines()[1].strip()


class OperatingSystem(Interpreter):
    """The same by a server without any path check: only the operating system can refuse."""

    key, title = "files-os", "Alice's file, by open()"

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        return await self._play(alice, bob, None)

    @override
    async def after(self, team: Team) -> Observation:
        async with team.connected(self.server) as (alice, bob):
            return await self._play(alice, bob, team.alice.home)

    async def _play(self, alice: Connection, bob: Connection, homes: Path | None) -> Observation:
        word, name = canary(), f"{canary()}.txt"
        wrote = await self.execute(alice, _WRITE % (name, word))
        path = _marked(wrote)
        targets = [path]
        if homes is not None:
            targets.append(str(existing(homes / self.server / name)))
        refusals: list[str] = []
        for target in targets:
            seen = await self.execute(bob, _READ % target)
            if word in seen:
                return Observation(True, f"bob opened alice's file: {word[:9]}…")
            refusals.append(_marked(seen))
        # Without this, a REPL that can open nothing at all would look like isolation.
        if word not in await self.execute(alice, _READ % path):
            raise CouldNotRun("alice cannot open her own file")
        return Observation(False, f"bob's open(): {', on the host path '.join(refusals)}")


_WRITE = """\
import os
with open(os.path.expanduser('~/%s'), 'w') as f:
    n = f.write(%r)
print('<<' + f.name + '>>')
"""
_READ = """\
import errno
try:
    print(open(%r).read())
except OSError as e:
    print('<<' + errno.errorcode[e.errno] + '>>')
"""


def _marked(text: str) -> str:
    start, found, rest = text.partition("<<")
    if not found or ">>" not in rest:
        raise CouldNotRun(f"the REPL answered something else: {start[-160:]}")
    return rest.partition(">>")[0]


def existing(path: Path) -> Path:
    """Return a path of the host after making sure that it is the right one.

    Raises:
        CouldNotRun: It is not there, so that refusing it would prove nothing.
    """
    if not path.is_file():
        raise CouldNotRun("alice's file is not where the hub should keep it on the host")
    return path


class Memory(Scenario):
    """Data that a server keeps inside its own installed package.

    The "before" is already one process per user with a home each, started from one plain
    installation: that alone does not help.
    """

    key, title = "memory", "Alice's memories"
    package, server = packages.MEMORY, "memory"
    unset = "memory-default"

    @override
    @asynccontextmanager
    async def shared(
        self, bench: Bench, work: Path
    ) -> AsyncIterator[tuple[Connection, Connection]]:
        argv, env = self.launch(bench, work)
        async with AsyncExitStack() as stack:
            pair: list[Connection] = []
            for name in ("alice", "bob"):
                home = work / name
                process = shared_process(
                    argv, env=env | {"HOME": str(home)}, cwd=home, log=work / "stderr.log"
                )
                pair.append(await stack.enter_async_context(process))
            yield pair[0], pair[1]

    @override
    def launch(self, bench: Bench, work: Path) -> tuple[list[str], dict[str, str]]:
        folder = bench.packages.folder(self.package)
        (folder / "dist" / "memory.jsonl").unlink(missing_ok=True)
        return bench.packages.node_argv(self.package), {}

    @override
    async def play(self, alice: Connection, bob: Connection) -> Observation:
        word = canary()
        await alice.must("create_entities", _remember(word))
        if word not in (await alice.must("search_nodes", {"query": word})).text:
            raise CouldNotRun("alice does not find her own memory")
        found = await bob.must("search_nodes", {"query": word})
        graph = await bob.must("read_graph")
        if word in found.text + graph.text:
            return Observation(True, f"two processes, two homes, yet bob found {word[:9]}…")
        return Observation(False, "bob found nothing")

    @override
    async def after(self, team: Team) -> Observation:
        seen = await Scenario.after(self, team)
        if seen.leaked:
            return seen
        # The same server as published, without MEMORY_FILE_PATH: its file lies in the package.
        word = canary()
        async with team.connected(self.unset) as (alice, bob):
            wrote = await alice.call("create_entities", _remember(word))
            found = await bob.call("search_nodes", {"query": word})
        if word in found.text:
            return Observation(True, f"without MEMORY_FILE_PATH bob found {word[:9]}…")
        how = f"refused ({_errno(wrote.text)})" if wrote.failed else "kept apart"
        return Observation(
            False, f"{seen.evidence}; without MEMORY_FILE_PATH the write into the package is {how}"
        )


def _remember(word: str) -> dict[str, object]:
    entity = {"name": word, "entityType": "canary", "observations": [word]}
    return {"entities": [entity]}


def _errno(text: str) -> str:
    names = [word.strip(":,") for word in text.split() if word.startswith("E") and word.isupper()]
    return names[0].strip(":,") if names else "refused"
