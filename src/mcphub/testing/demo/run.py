"""One run of the demo: install, set up, play every scenario in both ways, report.

Two lines of work go side by side, as many as the machine is expected to have cores: the comparison
(plain packages, shared servers) and the hub (command line, package store, the two users' calls).
"""

import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import anyio

from mcphub.testing.demo import packages, provision
from mcphub.testing.demo.databases import DatabaseServer, MariaDB, MySQL, Postgres
from mcphub.testing.demo.hub import Hub
from mcphub.testing.demo.observation import CouldNotRun, Observation, Row, reason
from mcphub.testing.demo.scenarios import (
    Bench,
    Files,
    Member,
    Memory,
    OperatingSystem,
    Scenario,
    Team,
    Token,
    Variable,
    WorkingDirectory,
)
from mcphub.testing.demo.settings_file import TEAMS, settings
from mcphub.testing.demo.steps import Steps
from mcphub.testing.github_standin import GitHubStandIn

USERS = ("alice", "bob")
_MARK = ".mcphub-demo"
_WORK = "run-"
_PLAY_S = 180.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for.

    Attributes:
        directory: Everything of the demo lies here; kept between runs.
        port: Port of the hub; 0 takes a free one.
        databases: Also the rows that need PostgreSQL and MariaDB.
    """

    directory: Path
    port: int = 0
    databases: bool = False


@dataclass(slots=True)
class Outcome:
    """What a run has found; filled while it goes on.

    Attributes:
        rows: The table.
        url: The hub, while it serves; empty if it could not be started.
        keys: The users' names and API keys.
        hub: The hub's directory.
    """

    rows: list[Row] = field(default_factory=list)
    url: str = ""
    keys: list[tuple[str, str]] = field(default_factory=list)
    hub: Path = Path()


@dataclass(frozen=True, slots=True)
class _Stage:
    """What both lines of work share: stand-ins, databases, secrets of this run."""

    work: Path
    github: GitHubStandIn
    github_tokens: tuple[str, str]
    postgres: DatabaseServer | None
    mariadb: DatabaseServer | None

    def scenarios(self) -> list[Scenario]:
        found: list[Scenario] = [
            Token(self.github, self.github_tokens),
            WorkingDirectory(),
            Variable(),
            Files(),
            OperatingSystem(),
            Memory(),
        ]
        if self.postgres is not None:
            found.append(Postgres(self.postgres))
        if self.mariadb is not None:
            found += [MySQL(self.mariadb), MariaDB(self.mariadb)]
        return found


@asynccontextmanager
async def played(options: Options, steps: Steps) -> AsyncIterator[Outcome]:
    """Play everything; the hub keeps serving until the context ends.

    Raises:
        CouldNotRun: The directory cannot be used, or a database cannot be started.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(claimed(options.directory))
        stage = await _stage(options, steps, stack)
        hub = Hub(options.directory / "hub", options.directory / "hub.log")
        outcome = Outcome(hub=hub.directory)
        scenarios = stage.scenarios()
        befores: list[Observation | str] = []
        afters: list[Observation | str] = []

        async def compare() -> None:
            befores.extend(await _befores(options, steps, stage, scenarios))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(compare)
            try:
                team = await _team(options, steps, stage, hub, stack)
            except Exception as error:  # noqa: BLE001  a hub that fails is an outcome with a reason
                afters.extend([reason(error)] * len(scenarios))
            else:
                outcome.url = team.url
                outcome.keys = [(user.name, user.key) for user in (team.alice, team.bob)]
                for scenario in scenarios:
                    with steps.step(f"two users through MCPHub: {scenario.title}"):
                        afters.append(await _attempt(lambda s=scenario: s.after(team)))
        outcome.rows = [
            Row(scenario.key, scenario.title, scenario.package, before, after)
            for scenario, before, after in zip(scenarios, befores, afters, strict=True)
        ]
        yield outcome


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Make the demo's directory and keep other runs out of it for the block.

    Raises:
        CouldNotRun: It holds something that is not the demo's, or another run uses it.
    """
    mark = directory / _MARK
    if not mark.exists() and directory.is_dir() and any(directory.iterdir()):
        raise CouldNotRun(f"{directory} is not empty and not a demo's; give another with --dir")
    directory.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise CouldNotRun(f"another demo is running in {directory}") from None
        for left in directory.glob(f"{_WORK}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


async def _stage(options: Options, steps: Steps, stack: AsyncExitStack) -> _Stage:
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=options.directory))
    stack.callback(shutil.rmtree, work, ignore_errors=True)
    github = stack.enter_context(GitHubStandIn(options.directory / "tls"))
    tokens = (f"ghp_{secrets.token_hex(18)}", f"ghp_{secrets.token_hex(18)}")
    postgres = mariadb = None
    if options.databases:
        with steps.step("start private PostgreSQL and MariaDB servers"):
            postgres = await stack.enter_async_context(provision.postgres(work))
            mariadb = await stack.enter_async_context(provision.mariadb(work))
    return _Stage(work, github, tokens, postgres, mariadb)


async def _befores(
    options: Options, steps: Steps, stage: _Stage, scenarios: Sequence[Scenario]
) -> list[Observation | str]:
    npm = [packages.GITHUB, packages.GIT, packages.FILESYSTEM, packages.MEMORY]
    pypi: dict[str, list[str]] = {packages.PYTHON: [packages.PYTHON_WITH]}
    if options.databases:
        npm += [packages.POSTGRES, packages.MYSQL]
        pypi[packages.MARIADB] = []
    try:
        with steps.step("install the servers plainly, for the comparison"):
            plain = packages.plain_packages(options.directory / "plain")
            await plain.install(npm, pypi)
    except CouldNotRun as error:
        return [reason(error)] * len(scenarios)
    bench = Bench(plain, stage.work, stage.github, stage.github_tokens)
    found: list[Observation | str] = []
    for scenario in scenarios:
        with steps.step(f"two users on one shared server: {scenario.title}"):
            found.append(await _attempt(lambda s=scenario: s.before(bench)))
    return found


async def _team(
    options: Options, steps: Steps, stage: _Stage, hub: Hub, stack: AsyncExitStack
) -> Team:
    with steps.step("set the hub up: two users, two groups, keys, credentials"):
        await hub.set_up(settings(stage.github, stage.postgres, stage.mariadb))
        people = await hub.users(list(zip(USERS, TEAMS, strict=True)))
        await _credentials(hub, stage)
    with steps.step("install the servers into the hub's pinned store"):
        await hub.install()
    with steps.step("start the hub"):
        url = await stack.enter_async_context(hub.serving(options.port, stage.work))
    alice, bob = (
        Member(name, user_id, key, hub.directory / "homes" / user_id)
        for name, (user_id, key) in zip(USERS, people, strict=True)
    )
    return Team(url, alice, bob)


async def _credentials(hub: Hub, stage: _Stage) -> None:
    """Set every user's credentials, two commands at a time."""
    wanted: list[tuple[str, str, str, str]] = []
    for place, name in enumerate(USERS):
        wanted.append((name, "github", "GITHUB_TOKEN", stage.github_tokens[place]))
        for server, database in (
            ("postgres", stage.postgres),
            ("mysql", stage.mariadb),
            ("mariadb", stage.mariadb),
        ):
            if database is not None:
                account = (database.alice, database.bob)[place]
                wanted.append((name, server, "DATABASE_ACCOUNT", account.user))
                wanted.append((name, server, "DATABASE_PASSWORD", account.password))
    limit = anyio.CapacityLimiter(2)

    async def put(user: str, server: str, slot: str, value: str) -> None:
        async with limit:
            await hub.credential(user, server, slot, value)

    async with anyio.create_task_group() as tasks:
        for entry in wanted:
            tasks.start_soon(put, *entry)


async def _attempt(play: Callable[[], Awaitable[Observation]]) -> Observation | str:
    try:
        with anyio.fail_after(_PLAY_S):
            return await play()
    except TimeoutError:
        return f"not done after {_PLAY_S:.0f} s"
    except Exception as error:  # noqa: BLE001  whatever it is, it is why there is no observation
        return reason(error)
