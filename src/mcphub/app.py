"""The composition root: settings become services, services become a running hub.

With `ground` the only module that knows concrete classes and all settings. `running` adds the sandbox,
the pool and the data plane to the ground services; `serve` puts them on a TCP port and the control
socket until it is told to stop.
"""

import asyncio
import contextlib
import importlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, Router

from mcphub.api.control import control_app
from mcphub.api.metrics import metrics_route
from mcphub.api.oauth import OAuthServices, connection_routes, oauth_routes
from mcphub.api.turns import Turns
from mcphub.api.user import UserServices, user_routes
from mcphub.audit.recorder import Recorder
from mcphub.audit.tracing import Traces
from mcphub.catalog.guide import guide_of
from mcphub.catalog.spec import ServerSpec
from mcphub.catalog.templates import plain_text, prepare
from mcphub.errors import HubError, InvalidInput
from mcphub.gateway.access import Access
from mcphub.gateway.asking import ParkedCalls
from mcphub.gateway.bounded import BoundedProtocol, Unread
from mcphub.gateway.catalogs import Catalogs
from mcphub.gateway.context import UserContexts
from mcphub.gateway.crowd import Crowd
from mcphub.gateway.door import Door
from mcphub.gateway.fastlane import FastLane
from mcphub.gateway.front import Front
from mcphub.gateway.heads import Heads
from mcphub.gateway.listen import Outlets
from mcphub.gateway.paging import Pages
from mcphub.gateway.plane import CallLimits, DataPlane
from mcphub.gateway.sessions import Sessions
from mcphub.gateway.shares import SHARES, Uploads
from mcphub.gateway.states import States
from mcphub.gateway.watching import Watches
from mcphub.ground import Ground, ground, replaceable, take_directory, the_only_hub
from mcphub.hub import Hub
from mcphub.ids import Clock, LateClock, system_clock
from mcphub.listening import (
    ANSWERS_S,
    CALLS_END_S,
    Server,
    check_open_files,
    connections_at_once,
    control_listener,
    raise_open_files,
    server_of,
    tcp_listener,
    url_of,
)
from mcphub.memory import give_back, keep_large_buffers, keep_what_is_there
from mcphub.oauth.clients import OwnAddress
from mcphub.oauth.connections import Connections
from mcphub.oauth.flows import Flows
from mcphub.policy.model import Denial, Permit, Principal
from mcphub.settings import HubSettings, Limits
from mcphub.spawn.dialects import Dialects
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.egress.ledger import EgressLedger
from mcphub.spawn.findings import Findings
from mcphub.spawn.launching import Launcher
from mcphub.spawn.modes import Prover
from mcphub.spawn.opening import Opener
from mcphub.spawn.pool import InstancePool
from mcphub.spawn.programs import Programs
from mcphub.spawn.sandboxed import SandboxedSpawner, SandboxSettings
from mcphub.spawn.spawner import Spawner
from mcphub.spawn.starts import PoolLimits, starts_at_once
from mcphub.spawn.unsandboxed import UnsandboxedSpawner
from mcphub.spawn.warm.spawner import WarmSpawner
from mcphub.spawn.zygote.spawner import ZygoteSpawner
from mcphub.stopping import Stopping
from mcphub.tasks import Tasks

_log = structlog.get_logger()
_CONTROLS: Final = 64
CONTEXT_PATH: Final = "/.well-known/mcphub-user-context"


@asynccontextmanager
async def running(
    settings: HubSettings, clock: Clock, stopping: Stopping, *, make: bool = True
) -> AsyncIterator[Hub]:
    """Run a hub without listening anywhere: sandbox, pool, data plane, watchers.

    Args:
        settings: Of the hub.
        clock: Of everything in it.
        stopping: Is told what the end has come to.
        make: Whether a database that is missing is made.

    Raises:
        HubError: The settings, the store or the key cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        services = await stack.enter_async_context(ground(settings, clock, make=make))
        stack.callback(stopping.at, "database")
        egress = EgressLedger()
        spawner = await _spawner(stack, settings, egress.take)
        stack.callback(stopping.at, "sandbox")
        host = settings.sandbox.host_facts(spawner.level)
        tasks = Tasks()
        connections = Connections(
            services.grants,
            tasks,
            hub_url=lambda: hub.url,
            changed=lambda: hub.refresh(),  # noqa: PLW0108  made below
        )
        launcher = _launcher(settings, services, spawner, connections)
        limits = settings.limits
        dialects = Dialects(services.states, launcher.programs)
        pool = _pool(spawner, launcher, dialects, limits, stopping.hurry)
        access = Access(
            services.directory, services.vault, services.states, services.live, host, clock,
            lambda: services.signer.revision,
        )  # fmt: skip
        late = LateClock(clock)
        outlets = Outlets()
        watches = Watches()
        catalogs = Catalogs(pool, launcher.programs, services.states, clock, tasks, outlets.changed)
        sessions = Sessions(
            per_user=limits.sessions_per_user,
            total=limits.sessions,
            idle_s=limits.session_idle_s,
            on_end=lambda session: watches.drop_all(session.user_id, session.watched),
        )
        recorder = Recorder(services.db, late, retention_days=settings.retention_days)
        held = Uploads(SHARES * limits.body_bytes)
        plane = DataPlane(
            access=access,
            pool=pool,
            dialects=dialects,
            catalogs=catalogs,
            sessions=sessions,
            outlets=outlets,
            recorder=recorder,
            limits=CallLimits(
                body_bytes=limits.body_bytes,
                call_timeout_s=limits.call_timeout_s,
                call_timeout_max_s=limits.call_timeout_max_s,
                calls_per_user=limits.calls_per_user,
                list_budget_s=limits.list_budget_s,
            ),
            clock=clock,
            tasks=tasks,
            parked=ParkedCalls(pool.release, held),
            contexts=UserContexts(services.signer, clock, settings.context.lifetime_s),
            states=States(),
            watches=watches,
            pages=Pages(limits.page_items),
            uploads=Uploads(SHARES * limits.body_bytes),
            held=held,
            unread=Unread(SHARES * limits.line_bytes),
            crowd=Crowd(connections_at_once(limits.connections), limits.connections_per_user),
            traces=_traces(settings),
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
            egress,
            late,
            connections,
            stopping.fail,
        )
        pool.follow(hub)
        egress.whose = hub.whose
        await hub.refresh()
        stack.push_async_callback(stopping.during, "records", hub.flush)
        if plane.traces is not None:
            plane.traces.start()
            ending = partial(asyncio.to_thread, plane.traces.close)
            stack.push_async_callback(stopping.during, "tracing", ending)
        await stack.enter_async_context(tasks)
        stack.callback(tasks.cancel_all)
        stack.callback(stopping.at, "background tasks")
        await stack.enter_async_context(pool.running())
        hub.follow()
        yield hub
        outlets.close_all()
        await stopping.during("instances", recorder.flush_early)


def _launcher(
    settings: HubSettings, services: Ground, spawner: Spawner, connections: Connections
) -> Launcher:
    programs = Programs(
        homes=settings.homes,
        packages=services.packages,
        states=services.states,
        search_path=settings.operator_env.get("PATH", ""),
        prover=Prover(spawner, Findings(settings.starts)),
    )
    return Launcher(
        homes=settings.homes,
        programs=programs,
        vault=services.vault,
        signer=services.signer,
        home_inside=spawner.home_inside,
        bearers=connections.bearer,
    )


def _pool(
    spawner: Spawner, launcher: Launcher, dialects: Dialects, limits: Limits, hurry: asyncio.Event
) -> InstancePool:
    opener = Opener(
        spawner, dialects, line_bytes=limits.line_bytes, timeout_s=limits.start_timeout_s
    )
    return InstancePool(
        opener,
        launcher,
        PoolLimits(
            instances=limits.instances,
            instances_per_user=limits.instances_per_user,
            instances_per_group=limits.instances_per_group,
            starts_at_once=starts_at_once(limits.starts_at_once),
            starts_waiting=limits.starts_waiting,
        ),
        hurry,
    )


def _traces(settings: HubSettings) -> Traces | None:
    """Return what exports spans, or None where tracing is off.

    Raises:
        InvalidInput: The library for it is not installed, or a header's variable is not set.
    """
    tracing = settings.tracing
    if not tracing.endpoint:
        return None
    headers: dict[str, str] = {}
    for name, text in tracing.headers.items():
        try:
            prepared = prepare(text, settings.operator_env)
        except HubError as error:
            raise InvalidInput(
                f"tracing.headers: {name}: {error.message}",
                hint="Set the variable where the hub runs, or correct the header in mcphub.toml.",
            ) from None
        if not prepared.is_plain:
            raise InvalidInput(
                f"tracing.headers: {name} cannot be a user's own value.",
                hint="Write ${NAME}, a variable of the hub's environment.",
            )
        headers[name] = plain_text(prepared)
    try:
        otlp = importlib.import_module("mcphub.audit.otlp")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"tracing.endpoint is set, but OpenTelemetry is not installed ({error.name} is missing).",
            hint=f"Run `{sys.executable} -m pip install 'mcphub-gateway[otel]'`, or remove "
            "tracing.endpoint.",
        ) from None
    exporter = otlp.Exporter(tracing.url, headers)
    return Traces(exporter.export, exporter.close, tracing.sample)


async def _spawner(
    stack: contextlib.AsyncExitStack,
    settings: HubSettings,
    on_egress: Callable[[EgressEvent], None],
) -> Spawner:
    """Return the best spawner of this machine; without a sandbox only what the administrator allowed."""
    sandbox = SandboxSettings(state=settings.run, uid_base=settings.sandbox.uid_base)
    sandboxed = await stack.enter_async_context(SandboxedSpawner(sandbox, on_egress))
    if sandboxed.level > 0 or not settings.sandbox.allow_unsandboxed:
        forking = await stack.enter_async_context(ZygoteSpawner(sandboxed))
        return await stack.enter_async_context(WarmSpawner(sandboxed, forking))
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
            "sandbox": hub.spawner.means,
            "minimumLevel": hub.host.minimum_level,
            "warning": hub.spawner.warning,
        }
        return JSONResponse(body, 200 if ready else 503)

    signer = hub.ground.signer
    fresh = {
        "Cache-Control": "no-cache"
    }  # a stale copy on the way would fail calls after a rotation

    async def jwks(_: Request) -> Response:
        return JSONResponse(signer.jwks(), headers=fresh)

    async def context(_: Request) -> Response:
        return JSONResponse(signer.description(hub.url + CONTEXT_PATH), headers=fresh)

    oauth = _oauth_services(hub)
    api = Router([*user_routes(_user_services(hub)), *connection_routes(oauth)])
    rest = Starlette(
        routes=[
            *oauth_routes(oauth),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route(CONTEXT_PATH, context),
            Route(f"{CONTEXT_PATH}/jwks.json", jwks),
            metrics_route(hub.access.authenticate, lambda: hub.plane.metrics.text(hub.figures())),
            Mount("/api", app=api),
        ]
    )
    # another path is another path: a redirect names the hub by what it sees of the request, which is
    # plain http behind a proxy, and keys would follow it
    api.redirect_slashes = rest.router.redirect_slashes = False
    door = Door(settings.public_url, settings.allowed_hosts, settings.allowed_origins)
    return Front(hub.plane, door, rest, old_sse=settings.sse)


def _decide(hub: Hub, principal: Principal, server: str) -> Permit | Denial:
    verdict = hub.access.verdict(principal, server)
    if verdict is None:
        return Denial("no-such-server", "There is no such server for you.")
    return verdict


def _oauth_services(hub: Hub) -> OAuthServices:
    document = hub.ground.settings.client_document

    def own() -> OwnAddress:
        return OwnAddress(hub.url, document)

    flows = Flows(
        hub.connections,
        own,
        may=lambda permit: hub.access.renewed(permit) is not None,
    )
    return OAuthServices(
        authenticate=hub.access.authenticate,
        decide=partial(_decide, hub),
        specs=lambda: hub.access.specs,
        flows=flows,
        own=own,
    )


def _user_services(hub: Hub) -> UserServices:
    return UserServices(
        authenticate=hub.access.authenticate,
        decide=partial(_decide, hub),
        specs=lambda: hub.access.specs,
        guide=guide_of,
        vault=hub.ground.vault,
        audit=hub.ground.audit.write,
        together=hub.ground.db.together,
        end_grant=hub.ground.grants.end,
        changed=hub.refresh,
        turns=Turns(time.monotonic),
    )


@asynccontextmanager
async def serving(
    settings: HubSettings,
    clock: Clock = system_clock,
    *,
    stopping: Stopping | None = None,
    make: bool = True,
) -> AsyncIterator[Hub]:
    """Run a hub and listen: MCP and user API on the TCP port, the control API on its socket.

    Args:
        settings: Of the hub.
        clock: Of everything in it.
        stopping: Is told what the end has come to, and may hurry it.
        make: Whether a database that is missing is made.

    Raises:
        HubError: It cannot start: settings, store, key, port, or another hub in the directory.
    """
    stopping = stopping or Stopping()
    take_directory(settings)  # before anything is made in it
    if (above := replaceable(settings.dir)) is not None:
        _log.warning("hub.directory_can_be_replaced", by_accounts_that_write=str(above))
    with (
        the_only_hub(settings.run) as uses,
        tcp_listener(settings) as listener,
        control_listener(settings.control_socket) as control,
    ):
        async with running(settings, clock, stopping, make=make) as hub, Tasks() as tasks:
            uses(hub.ground.install_id)
            hub.url = settings.listen.public_url or url_of(settings.listen.host, listener)
            hub.plane.hub_url = hub.url
            front = application(hub)
            connection = partial(
                FastLane, Heads(hub.plane, front.door), fast=settings.listen.fast_lane
            )
            asking = partial(BoundedProtocol, hub.plane.unread, Crowd(_CONTROLS, _CONTROLS))
            servers = [server_of(front, connection), server_of(control_app(hub), asking)]
            serves = [
                tasks.start("http.serve", server.serve(sockets=[bound]))
                for server, bound in zip(servers, (listener, control), strict=True)
            ]
            for server in servers:
                await server.up.wait()
            warming = tasks.start("catalogs.warm", hub.warm())
            try:
                yield hub
            finally:
                stopping.at("clients")
                warming.cancel()
                hub.outlets.close_all()
                for server in servers:
                    server.should_exit = True
                settings.control_socket.unlink(missing_ok=True)
                hurried = tasks.start("http.hurry", _hurried(stopping.hurry, hub, servers))
                # calls have a moment to end; then their callers get an answer, not a lost connection
                await asyncio.wait(serves, timeout=CALLS_END_S)
                hub.pool.end_calls()
                await asyncio.wait(serves)  # uvicorn has a bound of its own
                hurried.cancel()


async def _hurried(hurry: asyncio.Event, hub: Hub, servers: Sequence[Server]) -> None:
    """Once it is asked for, give calls no more time than their answers need."""
    await hurry.wait()
    hub.pool.end_calls()
    await asyncio.sleep(ANSWERS_S)
    for server in servers:
        server.force_exit = True


def _places(spec: ServerSpec, slot: str) -> tuple[str, ...]:
    return next((known.places for known in spec.slots if known.name == slot), ())


async def serve(
    settings: HubSettings, *, on_ready: Callable[[str], None], on_stop: Callable[[], None]
) -> None:
    """Run the hub until SIGINT or SIGTERM, reload at SIGHUP.

    A second signal ends the time that servers have to end by themselves. A stop that takes longer than
    `limits.stop_s` ends the process with exit status 1, from whatever it waits for (`Stopping`); that
    holds until the process is gone, so it must be this hub's own.

    Args:
        settings: Of the hub.
        on_ready: Gets the URL once it answers.
        on_stop: Called when it begins to stop.

    Raises:
        HubError: As `serving`; or it could not go on.
    """
    os.umask(os.umask(0o077) | 0o022)  # whatever it is started with, others write nowhere
    keep_large_buffers()
    check_open_files(raise_open_files(), settings.limits.instances)
    stopping = Stopping(settings.limits.stop_s)
    stopping.take_signals()
    loop = asyncio.get_running_loop()
    async with serving(settings, stopping=stopping, make=False) as hub:
        loop.add_signal_handler(signal.SIGHUP, lambda: hub.tasks.start("hub.reload", hub.reload()))
        stopping.guard(hub.left, hub.save)
        keep_what_is_there()
        hub.tasks.start("memory.give_back", give_back())
        on_ready(hub.url)
        await stopping.begun.wait()
        on_stop()
    stopping.at("threads")
    if stopping.failure is not None:
        raise stopping.failure
