"""From a launch to an open upstream, in the dialect that the server speaks.

What is known is tried first. A server of which nothing is known is asked `server/discover`; whatever
it does then, short of saying that it is modern, `initialize` follows: on the same process when it
answers an error or nothing, on a new one when it ends or stays confused. Most published servers are
legacy; asking costs them a few milliseconds, once per version. Source: MCP 2026-07-28
basic/versioning §Compatibility, transports §Backward Compatibility.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from mcphub.catalog.spec import ServerSpec
from mcphub.errors import HubError, Unavailable, UpstreamFailed
from mcphub.spawn import failing
from mcphub.spawn.dialects import Dialects
from mcphub.spawn.instance import Instance, State
from mcphub.spawn.launching import SHARED, Dial
from mcphub.spawn.spawner import Launch, Spawner
from mcphub.tasks import Tasks
from mcphub.upstream.exchange import Exchange
from mcphub.upstream.http import HttpPipe
from mcphub.upstream.http_modern import ModernHttpPipe
from mcphub.upstream.http_sse import SsePipe
from mcphub.upstream.legacy import LegacyUpstream
from mcphub.upstream.lines import Connect, Line, LinePipe, OnEnd, OnLine, Pipe
from mcphub.upstream.modern import ModernUpstream
from mcphub.upstream.outgoing import Outgoing
from mcphub.upstream.pace import Shares
from mcphub.upstream.upstream import OpeningRefused, Upstream
from mcphub.vault.secret import Secret
from mcphub.wire import envelope
from mcphub.wire.codes import DISCOVER, MODERN_ERRORS, UNSUPPORTED_VERSION, Dialect
from mcphub.wire.envelope import Message

PROBE_S: Final = 3.0
"""Seconds until a process that does not answer `server/discover` is sent `initialize` too."""
PROBE_HTTP_S: Final = 10.0
"""The same for a URL."""
_NO_MODERN: Final = frozenset({401, 403})
_PIPES: Final = {Dialect.MODERN: ModernHttpPipe, Dialect.LEGACY: HttpPipe, Dialect.SSE: SsePipe}


_Kind = TypeVar("_Kind", bound=Upstream)


@dataclass(slots=True)
class Opening:
    """One instance on its way to an open upstream.

    Attributes:
        instance: What is started; gets its process and its upstream here.
        tasks: Where HTTP requests run.
        on_notification: Gets what the server says outside of calls.
        on_end: Called once when the server ends after it was opened.
    """

    instance: Instance
    spec: ServerSpec
    launch: Launch | Dial
    tasks: Tasks
    on_notification: Callable[[Message], None]
    on_end: Callable[[], None]
    done: bool = False

    def upstream(self, kind: type[_Kind], connect: Connect, first_id: int = 1) -> _Kind:
        """Make the upstream of this attempt."""
        made = kind(
            self.spec.name,
            connect,
            on_notification=self.on_notification,
            on_end=self.ended,
            one_owner=self.instance.owner != SHARED,
            roots=self.spec.roots,
            offers=self.spec.offers,
            first_id=first_id,
        )
        self.instance._upstream = made  # noqa: SLF001  an instance's connection is made here
        return made

    def ended(self) -> None:
        """The connection or the process is over: now or later."""
        if self.done:
            self.on_end()
        elif self.instance._upstream is not None:  # noqa: SLF001
            self.instance.upstream.fail_all(
                failing.not_started(self.spec.name, self.instance.exited)
            )

    def check(self) -> None:
        """Refuse to go on with an instance that was stopped meanwhile.

        Raises:
            Unavailable: It was.
        """
        if self.instance.state is not State.STARTING:
            raise failing.stopped(self.spec.name)


@dataclass(slots=True)
class _Shared:
    """One pipe that two upstreams listen to until it is clear which of them the server understands."""

    opens: Connect
    pipe: Pipe | None = None
    _takers: list[tuple[OnLine, OnEnd]] = field(default_factory=list)

    def connect(self, on_line: OnLine, on_end: OnEnd) -> Pipe:
        """Join the pipe; opens it the first time."""
        self._takers.append((on_line, on_end))
        if self.pipe is None:
            self.pipe = self.opens(self._line, self._end)
        return self.pipe

    def keep(self, index: int) -> None:
        """Leave the pipe to one of those who joined, by order."""
        self._takers = [self._takers[index]]

    def _line(self, line: Line, origin: int) -> None:
        for on_line, _ in self._takers:
            on_line(line, origin)

    def _end(self, reason: Exception | None) -> None:
        for _, on_end in self._takers:
            on_end(reason)


class Opener:
    """Opens upstreams. Holds no state of its own.

    Args:
        spawner: Starts processes.
        dialects: What is known of the servers.
        line_bytes: Longest message of a server.
        timeout_s: Seconds that a server has to answer its opening.
    """

    def __init__(
        self, spawner: Spawner, dialects: Dialects, *, line_bytes: int, timeout_s: float
    ) -> None:
        self._spawner, self._dialects = spawner, dialects
        self._line_bytes, self._timeout_s = line_bytes, timeout_s
        self._shares = Shares()

    async def open(self, opening: Opening) -> None:
        """Start what there is to start and open the connection; the instance has both then.

        Raises:
            HubError: The server does not start, or speaks no protocol that we know.
        """
        spec = opening.spec
        owner = opening.instance.owner
        known = spec.dialect or await self._dialects.known(spec, owner)
        if isinstance(opening.launch, Dial):
            found = await self._open_url(opening, opening.launch, known)
        else:
            found = await self._open_process(opening, opening.launch, known)
        opening.check()
        opening.done = True
        opening.instance.prove()
        if spec.dialect is None:
            await self._dialects.learn(spec, owner, found)

    # ------------------------------------------------------------------ processes

    async def _open_process(
        self, opening: Opening, launch: Launch, known: Dialect | None
    ) -> Dialect:
        fixed = opening.spec.dialect is not None
        if known is Dialect.MODERN:
            try:
                return await self._plain(opening, launch, ModernUpstream)
            except HubError as error:
                if fixed or _is_modern(error):
                    raise
                return await self._instead_of(opening, launch, error)
        if known is not None:
            try:
                return await self._plain(opening, launch, LegacyUpstream)
            except OpeningRefused as error:
                if fixed or error.number != UNSUPPORTED_VERSION:
                    raise
        return await self._probe(opening, launch)

    async def _plain(self, opening: Opening, launch: Launch, kind: type[Upstream]) -> Dialect:
        """Start a process and open it in one era."""
        upstream = opening.upstream(kind, await self._started(opening, launch))
        await upstream.open(self._timeout_s)
        return Dialect(upstream.era.value)

    async def _instead_of(self, opening: Opening, launch: Launch, error: HubError) -> Dialect:
        """Try `initialize` where another opening failed; if that fails too, the first error counts."""
        try:
            return await self._plain(opening, launch, LegacyUpstream)
        except HubError:
            raise error from None

    async def _probe(self, opening: Opening, launch: Launch) -> Dialect:
        """Ask `server/discover`, then `initialize`; see the module."""
        pipe = _Shared(await self._started(opening, launch))
        modern = opening.upstream(ModernUpstream, pipe.connect)
        exchange = await modern.send(Outgoing(DISCOVER, self._timeout_s), {})
        try:
            async with asyncio.timeout(PROBE_S):
                await exchange.settled()
        except TimeoutError:
            pass  # slow or silent: what comes first counts
        except HubError:  # it ended
            return await self._plain(opening, launch, LegacyUpstream)
        if _discovered(exchange.answer, opening.spec.name):
            return _taken(modern, exchange.answer)
        legacy = opening.upstream(LegacyUpstream, pipe.connect, first_id=2)
        try:
            await legacy.open(self._timeout_s)
        except HubError as error:
            if isinstance(error, OpeningRefused) and error.number == UNSUPPORTED_VERSION:
                await _settled(exchange, self._timeout_s)  # it is modern, and slow to say so
            if _discovered(exchange.answer, opening.spec.name):
                pipe.keep(0)
                opening.instance._upstream = modern  # noqa: SLF001
                return _taken(modern, exchange.answer)
            return await self._plain(opening, launch, LegacyUpstream)
        pipe.keep(1)
        return Dialect.LEGACY

    async def _started(self, opening: Opening, launch: Launch) -> Connect:
        """Start the process of an instance, instead of an earlier one; returns how to speak with it."""
        instance = opening.instance
        if instance._process is not None:  # noqa: SLF001
            before, instance._process = instance.process, None  # noqa: SLF001
            if instance._upstream is not None:  # noqa: SLF001
                instance.upstream.close()
            await before.stop(0)
        opening.check()
        process = await self._spawner.start(launch)
        instance._process = process  # noqa: SLF001
        if instance.state is not State.STARTING:
            await process.stop(0)
        opening.check()
        process.exited.add_done_callback(
            lambda _: opening.ended() if instance._process is process else None  # noqa: SLF001
        )
        limit, share = self._line_bytes, self._shares.of(instance.owner)
        return lambda on_line, on_end: LinePipe(
            process.stdout, process.stdin, limit, on_line, on_end, share
        )

    # ------------------------------------------------------------------ URLs

    async def _open_url(self, opening: Opening, dial: Dial, known: Dialect | None) -> Dialect:
        """Try the dialects in turn, what is known first; returns the one that worked."""
        order = [Dialect.MODERN, Dialect.LEGACY, Dialect.SSE]
        if known is not None:
            order = [known] + ([] if opening.spec.dialect else [d for d in order if d != known])
        elif opening.spec.sse:
            order = [Dialect.SSE, Dialect.MODERN, Dialect.LEGACY]
        failed: dict[Dialect, HubError] = {}
        for dialect in order:
            try:
                await self._dialled(opening, dial, dialect)
            except HubError as error:
                opening.check()
                failed[dialect] = error
                if not _goes_on(dialect, error):
                    raise
            else:
                return dialect
        told = known or (Dialect.SSE if opening.spec.sse else Dialect.LEGACY)
        raise failed[told]

    async def _dialled(self, opening: Opening, dial: Dial, dialect: Dialect) -> None:
        url = dial.url.reveal() if isinstance(dial.url, Secret) else dial.url
        headers = {
            name: value.reveal() if isinstance(value, Secret) else value
            for name, value in dial.headers.items()
        }
        limit, name, tasks, kind = (
            self._line_bytes,
            opening.spec.name,
            opening.tasks,
            _PIPES[dialect],
        )
        share = self._shares.of(opening.instance.owner)
        modern = dialect is Dialect.MODERN
        upstream = opening.upstream(
            ModernUpstream if modern else LegacyUpstream,
            lambda on_line, on_end: kind(
                name, url, headers, limit, tasks, on_line, on_end, dial.bearer, share
            ),
        )
        fixed = opening.spec.dialect is not None
        probing = modern and not fixed
        try:
            await upstream.open(min(PROBE_HTTP_S, self._timeout_s) if probing else self._timeout_s)
        except BaseException:
            upstream.close()
            raise


def _goes_on(dialect: Dialect, error: HubError) -> bool:
    """Whether another dialect may be tried after a failure in this one."""
    if not isinstance(error, OpeningRefused):
        return dialect is Dialect.MODERN and isinstance(error, Unavailable)  # silent
    status = error.http_status
    if status is not None:
        # 401 and 403 say nothing about the era, and what is not reached speaks no other one
        return (
            status != 0 and status not in _NO_MODERN and (status < 500 or dialect is Dialect.MODERN)
        )
    if dialect is Dialect.MODERN:
        return error.number not in MODERN_ERRORS
    return error.number == UNSUPPORTED_VERSION


def _is_modern(error: HubError) -> bool:
    return isinstance(error, OpeningRefused) and error.number in MODERN_ERRORS


def _discovered(answer: Message | None, name: str) -> bool:
    """Whether an answer to the probe is a DiscoverResult.

    Raises:
        OpeningRefused: It is an error that only a modern server gives.
    """
    if answer is None:
        return False
    if "result" in answer.members:
        return "supportedVersions" in answer.inner("result")
    error = envelope.object_of(answer.members.get("error"))
    try:
        code = int(bytes(error.get("code", b"0")))
    except ValueError:
        return False
    if code in MODERN_ERRORS:
        text = envelope.text(error.get("message"))[:300]
        raise OpeningRefused(f"Server '{name}' refused {DISCOVER}: {text}", number=code)
    return False


def _taken(modern: ModernUpstream, answer: Message | None) -> Dialect:
    if answer is None:
        raise UpstreamFailed(f"Server '{modern.name}' did not say what it is.")
    modern.take_opening(answer.members["result"])
    return Dialect.MODERN


async def _settled(exchange: Exchange, timeout_s: float) -> None:
    """Wait for an answer as long as a server may take to start."""
    try:
        async with asyncio.timeout(timeout_s):
            await exchange.settled()
    except (TimeoutError, HubError):
        return
