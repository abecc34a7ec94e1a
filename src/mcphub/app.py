"""The composition root: settings become services, services become a running hub.

The only module that knows concrete classes and all settings. `ground` is what the command line
shares with the hub (no sockets, no processes); `running` adds the sandbox, the pool and the data
plane; `serve` puts them on a TCP port and the control socket until it is told to stop.
"""

import asyncio
import contextlib
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from mcphub import __version__
from mcphub.api.control import control_app
from mcphub.api.user import UserServices, user_routes
from mcphub.audit.log import AuditLog
from mcphub.audit.recorder import Recorder
from mcphub.audit.requests import RequestLog
from mcphub.catalog.guide import guide_for
from mcphub.catalog.live import LiveSettings
from mcphub.catalog.packages import PackageStore
from mcphub.catalog.settings_file import LoadedSettings
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.states import ServerStates
from mcphub.catalog.toolchain import find_toolchain
from mcphub.errors import HubError, InvalidInput, NotFound
from mcphub.gateway.access import Access
from mcphub.gateway.catalogs import Catalogs
from mcphub.gateway.door import Door
from mcphub.gateway.front import Front
from mcphub.gateway.listen import LIST_CHANGED, Outlets
from mcphub.gateway.plane import CallLimits, DataPlane
from mcphub.gateway.sessions import Sessions
from mcphub.identity.directory import Directory
from mcphub.ids import Clock, system_clock
from mcphub.policy.model import Denial, HostFacts, Permit, Principal, Transport
from mcphub.settings import HubSettings
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.launching import Launcher
from mcphub.spawn.pool import Instance, InstancePool, PoolLimits
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Spawner
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.store.database import Database
from mcphub.tasks import Tasks
from mcphub.vault.keys import CommandKeys, EnvironmentKeys, FileKeys, KeyProvider, KeyRing
from mcphub.vault.vault import Vault
from mcphub.wire.envelope import Message

_log = structlog.get_logger()
_POLL_S: Final = 1.0
_SLOW_POLLS: Final = 60
_WARM_AT_ONCE: Final = 2
_SHUTDOWN_S: Final = 5
_REFUSALS_KEPT: Final = 100


@dataclass(frozen=True, slots=True)
class Ground:
    """Services without sockets or processes; the command line works on them with or without a hub."""

    settings: HubSettings
    clock: Clock
    db: Database
    directory: Directory
    vault: Vault
    states: ServerStates
    packages: PackageStore
    requests: RequestLog
    audit: AuditLog
    live: LiveSettings


@asynccontextmanager
async def ground(settings: HubSettings, clock: Clock = system_clock) -> AsyncIterator[Ground]:
    """Open the store and everything on it; make database and vault key on first use.

    Raises:
        HubError: The database, the key or a file cannot be used.
    """
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = Database.at(settings.database_url)
    try:
        await db.migrate()
        ring = KeyRing.load(key_provider(settings))
        path = settings.operator_env.get("PATH", "/usr/local/bin:/usr/bin:/bin")
        toolchain = await asyncio.to_thread(find_toolchain, path)
        yield Ground(
            settings=settings,
            clock=clock,
            db=db,
            directory=Directory(db, clock),
            vault=Vault(db, ring, clock),
            states=ServerStates(db, clock),
            packages=PackageStore(settings.packages, toolchain, settings.operator_env, clock),
            requests=RequestLog(db),
            audit=AuditLog(db, clock),
            live=LiveSettings(settings.servers_file, settings.operator_env),
        )
    finally:
        await db.close()


def key_provider(settings: HubSettings) -> KeyProvider:
    """Return where the vault's keys come from.

    Raises:
        InvalidInput: The environment variable that should hold them is not set.
    """
    keys = settings.keys
    if keys.source == "command":
        return CommandKeys(keys.command)
    if keys.source == "environment":
        value = settings.operator_env.get(keys.variable)
        if not value:
            raise InvalidInput(
                f"The vault's keys should be in the environment variable {keys.variable}, which is not set.",
                hint='Set it, or use keys.source = "file".',
            )
        return EnvironmentKeys(value)
    settings.key_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileKeys(settings.key_file)


class Refusals:
    """Destinations that the egress gateway refused, by instance: what a puzzled user needs to see."""

    def __init__(self) -> None:
        self._seen: dict[str, Counter[str]] = {}

    def take(self, event: EgressEvent) -> None:
        """Take a decision of the gateway."""
        if event.kind != "refused":
            return
        seen = self._seen.setdefault(event.instance_id, Counter())
        destination = f"{event.host}:{event.port}"
        if destination in seen or len(seen) < _REFUSALS_KEPT:
            seen[destination] += 1
        _log.info("egress.refused", instance=event.instance_id, to=destination, why=event.reason)

    def of(self, instance_id: str) -> dict[str, int]:
        """Return destination -> how often, of one instance."""
        return dict(self._seen.get(instance_id, {}))

    def forget(self, instance_id: str) -> None:
        """Drop what is known of an instance that is gone."""
        self._seen.pop(instance_id, None)


@dataclass(slots=True)
class Hub:
    """A running hub. Implements `api.control.Control`.

    Attributes:
        url: Where clients reach it, once it listens.
    """

    ground: Ground
    spawner: Spawner
    host: HostFacts
    launcher: Launcher
    pool: InstancePool
    access: Access
    catalogs: Catalogs
    outlets: Outlets
    sessions: Sessions
    recorder: Recorder
    plane: DataPlane
    tasks: Tasks
    refusals: Refusals
    url: str = ""
    revision: int = -1
    _reload: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> int:
        """Read the database anew and stop what may not run any more; returns the revision in memory."""
        async with self._reload:
            revision = await self.ground.db.revision()
            before = (
                {name: state.pin for name, state in self.access.states.items()}
                if self.revision >= 0
                else {}
            )
            await self.access.load()
            self.revision = revision
            for name, state in self.access.states.items():
                if name in before and before[name] != state.pin:
                    self._changed(name)
            self._end_what_is_over()
            return revision

    def status(self) -> dict[str, object]:
        """Return figures of the hub as a whole."""
        error = self.ground.live.error
        return {
            "version": __version__,
            "url": self.url,
            "revision": self.revision,
            "sandboxLevel": self.spawner.level,
            "minimumLevel": self.host.minimum_level,
            "warning": self.spawner.warning,
            "servers": len(self.access.specs),
            "users": len(self.access.active_users),
            "sessions": len(self.sessions),
            "instances": len(self.pool.instances()),
            "settingsError": str(error) if error else "",
            "catalogFailures": dict(self.catalogs.failures),
        }

    def instances(self) -> list[dict[str, object]]:
        """Return the running instances; users by opaque id."""
        now = self.pool.now()
        return [
            {
                "id": instance.id,
                "user": instance.owner,
                "server": instance.server,
                "state": instance.state.value,
                "pid": instance.pid,
                "age_s": round(now - instance.started_at, 1),
                "idle_s": round(now - instance.last_used, 1) if not instance.in_flight else 0.0,
                "in_flight": instance.in_flight,
                "calls": instance.calls,
                "refused": self.refusals.of(instance.id),
            }
            for instance in self.pool.instances()
        ]

    async def stop_instance(self, instance_id: str) -> None:
        """Stop one instance; returns when its processes are gone."""
        await self.pool.stop(self._instance(instance_id))

    def stderr(self, instance_id: str) -> list[str]:
        """Return an instance's last lines on stderr, redacted."""
        return self._instance(instance_id).stderr()

    def notified(self, instance: Instance, message: Message) -> None:
        """Take what a server sent outside a call."""
        if message.method in LIST_CHANGED:
            instance.lists_changed = True
            self.catalogs.forget_instance(instance)
        self.outlets.publish(instance, message)

    def instance_changed(self, what: str, instance: Instance) -> None:
        """Take the news that an instance started, crashed or stopped."""
        _log.info(
            f"instance.{what}", instance=instance.id, server=instance.server, user=instance.owner
        )
        if what == "stopped":
            self.refusals.forget(instance.id)
            self.catalogs.forget_instance(instance)

    def settings_changed(self, old: LoadedSettings, new: LoadedSettings) -> None:
        """Take a valid edit of the settings file."""
        names = {
            name for name in {*old.specs, *new.specs} if old.specs.get(name) != new.specs.get(name)
        }
        _log.info("settings.reloaded", changed=sorted(names))
        self.tasks.start("settings.apply", self._apply(names))

    async def watch(self) -> None:
        """Follow the database's revision, so that a change by another process counts within a second."""
        polls = 0
        while True:
            await asyncio.sleep(_POLL_S)
            polls += 1
            try:
                if await self.ground.db.revision() != self.revision:
                    await self.refresh()
                self.outlets.recheck()
                self.sessions.sweep()
                if polls % _SLOW_POLLS == 0:
                    await self._note_keys()
            except HubError as error:
                _log.warning("store.unavailable", error=str(error))

    async def warm(self) -> None:
        """Install packages and learn catalogs ahead of the first caller; failures wait for the caller."""
        gate = asyncio.Semaphore(_WARM_AT_ONCE)

        async def one(spec: ServerSpec) -> None:
            async with gate:
                try:
                    await self.catalogs.offer(spec)
                except HubError as error:
                    _log.warning("server.unavailable", server=spec.name, error=str(error))

        state = self.access.states
        wanted = [
            spec
            for spec in self.access.specs.values()
            if spec.transport is Transport.STDIO
            and spec.enabled
            and (spec.name not in state or state[spec.name].enabled)
        ]
        await asyncio.gather(*(one(spec) for spec in wanted))

    async def _apply(self, names: set[str]) -> None:
        await self.refresh()
        for name in names:
            self._changed(name)
        await self.warm()

    def _changed(self, name: str) -> None:
        self.launcher.forget(name)
        self.catalogs.forget(name)
        self.outlets.changed(name)

    def _end_what_is_over(self) -> None:
        """Stop instances of users who are gone, drain those of old revisions, end streams of dead keys."""
        active = self.access.active_users
        self.pool.drain(
            lambda found: found.owner.startswith("u_") and found.owner not in active, at_once=True
        )
        self.pool.drain(
            lambda found: not self.access.is_current(found.owner, found.server, found.revision)
        )
        self.outlets.recheck()
        for user_id in self.sessions.users():
            if user_id not in active:
                self.sessions.end_of_user(user_id)

    async def _note_keys(self) -> None:
        seen, self.plane.seen_keys = self.plane.seen_keys, {}
        if seen:
            await self.ground.directory.note_use(seen)

    def _instance(self, instance_id: str) -> Instance:
        found = next((one for one in self.pool.instances() if one.id == instance_id), None)
        if found is None:
            raise NotFound("There is no such instance.", hint="See `mcphub instances`.")
        return found


@asynccontextmanager
async def running(settings: HubSettings, clock: Clock = system_clock) -> AsyncIterator[Hub]:
    """Run a hub without listening anywhere: sandbox, pool, data plane, watchers.

    Raises:
        HubError: The settings, the store or the key cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        services = await stack.enter_async_context(ground(settings, clock))
        refusals = Refusals()
        spawner = await _spawner(stack, settings, refusals.take)
        host = HostFacts(
            spawner.level, settings.sandbox.minimum_level, settings.sandbox.allow_unsandboxed
        )
        launcher = Launcher(
            homes=settings.homes,
            packages=services.packages,
            states=services.states,
            vault=services.vault,
            home_inside=spawner.home_inside,
            search_path=settings.operator_env.get("PATH", ""),
        )
        limits = settings.limits
        pool = InstancePool(
            spawner,
            launcher,
            PoolLimits(
                instances=limits.instances,
                instances_per_user=limits.instances_per_user,
                starts_at_once=limits.starts_at_once,
                start_timeout_s=limits.start_timeout_s,
                line_bytes=limits.line_bytes,
            ),
        )
        access = Access(
            services.directory, services.vault, services.states, services.live, host, clock
        )
        catalogs = Catalogs(pool, launcher, services.states, clock)
        outlets = Outlets()
        sessions = Sessions(
            per_user=limits.sessions_per_user, total=limits.sessions, idle_s=limits.session_idle_s
        )
        recorder = Recorder(services.db, clock, retention_days=settings.retention_days)
        tasks = Tasks()
        plane = DataPlane(
            access=access,
            pool=pool,
            catalogs=catalogs,
            sessions=sessions,
            outlets=outlets,
            recorder=recorder,
            limits=CallLimits(
                body_bytes=limits.body_bytes,
                call_timeout_s=limits.call_timeout_s,
                call_timeout_max_s=limits.call_timeout_max_s,
                calls_per_user=limits.calls_per_user,
            ),
            clock=clock,
            tasks=tasks,
        )
        hub = Hub(
            services,
            spawner,
            host,
            launcher,
            pool,
            access,
            catalogs,
            outlets,
            sessions,
            recorder,
            plane,
            tasks,
            refusals,
        )
        pool.follow(hub)
        await hub.refresh()
        stack.push_async_callback(recorder.aclose)
        await stack.enter_async_context(tasks)
        stack.callback(tasks.cancel_all)
        await stack.enter_async_context(pool.running())
        tasks.start("audit.flush", recorder.run())
        tasks.start("settings.watch", services.live.watch(hub.settings_changed))
        tasks.start("store.watch", hub.watch())
        yield hub
        outlets.close_all()


async def _spawner(
    stack: contextlib.AsyncExitStack,
    settings: HubSettings,
    on_egress: Callable[[EgressEvent], None],
) -> Spawner:
    """Return the best spawner of this machine; without a sandbox only what the administrator allowed."""
    sandbox = SandboxSettings(state=settings.run, uid_base=settings.sandbox.uid_base)
    sandboxed = await stack.enter_async_context(SandboxedSpawner(sandbox, on_egress))
    if sandboxed.level > 0 or not settings.sandbox.allow_unsandboxed:
        return sandboxed
    return await stack.enter_async_context(UnsandboxedSpawner())


def application(hub: Hub) -> Front:
    """Return the ASGI application of a hub: MCP endpoints, user API, health."""
    settings = hub.ground.settings.listen

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        ready = hub.spawner.level >= hub.host.minimum_level or hub.host.allow_unsandboxed
        body = {
            "status": "ready" if ready else "sandbox below the minimum level",
            "sandboxLevel": hub.spawner.level,
            "minimumLevel": hub.host.minimum_level,
            "warning": hub.spawner.warning,
        }
        return JSONResponse(body, 200 if ready else 503)

    rest = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Mount("/api", routes=user_routes(_user_services(hub))),
        ]
    )
    return Front(
        hub.plane, Door(settings.public_url, settings.allowed_hosts, settings.allowed_origins), rest
    )


def _user_services(hub: Hub) -> UserServices:
    def decide(principal: Principal, server: str) -> Permit | Denial:
        verdict = hub.access.verdict(principal, server)
        return (
            verdict
            if verdict is not None
            else Denial("no-such-server", "There is no such server for you.")
        )

    return UserServices(
        authenticate=hub.access.authenticate,
        decide=decide,
        specs=lambda: hub.access.specs,
        guide=lambda spec, slot: asdict(guide_for(spec.name, slot, _places(spec, slot))),
        vault=hub.ground.vault,
        audit=hub.ground.audit.write,
        changed=hub.refresh,
    )


@asynccontextmanager
async def serving(settings: HubSettings, clock: Clock = system_clock) -> AsyncIterator[Hub]:
    """Run a hub and listen: MCP and user API on the TCP port, the control API on its socket.

    Raises:
        HubError: It cannot start: settings, store, key, port, or another hub in the directory.
    """
    listener, control = _listener(settings), _control_listener(settings.control_socket)
    with listener, control:
        async with running(settings, clock) as hub, Tasks() as tasks:
            hub.url = settings.listen.public_url or _url(settings.listen.host, listener)
            hub.plane.hub_url = hub.url
            servers = [_server(application(hub)), _server(control_app(hub))]
            for server, bound in zip(servers, (listener, control), strict=True):
                tasks.start("http.serve", server.serve(sockets=[bound]))
            for server in servers:
                await server.up.wait()
            warming = tasks.start("catalogs.warm", hub.warm())
            try:
                yield hub
            finally:
                warming.cancel()
                hub.outlets.close_all()
                for server in servers:
                    server.should_exit = True
                settings.control_socket.unlink(missing_ok=True)


def _places(spec: ServerSpec, slot: str) -> tuple[str, ...]:
    return next((known.places for known in spec.slots if known.name == slot), ())


async def serve(settings: HubSettings, *, on_ready: Callable[[str], None]) -> None:
    """Run the hub until SIGINT or SIGTERM; `on_ready` gets the URL once it answers.

    Raises:
        HubError: As `serving`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    async with serving(settings) as hub:
        on_ready(hub.url)
        await stop.wait()


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the hub has two servers and one way to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.up.set()


def _server(app: object) -> _Server:
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_S,
        timeout_keep_alive=75,
    )
    return _Server(config)


def _listener(settings: HubSettings) -> socket.socket:
    listen = settings.listen
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # named, so that asyncio knows it is TCP and turns Nagle's algorithm off
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((listen.host, listen.port))
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"The hub cannot listen on {listen.host} port {listen.port}: {error.strerror}.",
            hint="Another program has the port? Use --port, or listen.port in mcphub.toml.",
        ) from None
    listener.listen(1024)
    return listener


def _control_listener(path: Path) -> socket.socket:
    """Bind the control socket, mode 0600; refuse when a hub answers there already."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise InvalidInput(
                "A hub runs in this directory already.", hint="Stop it, or use another --dir."
            )
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    return listener


def _url(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
