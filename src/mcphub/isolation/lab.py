"""`Lab`: where a subject runs under check, again and again, each time from nothing.

Every start is a new process in the sandbox with an empty home (filled by `territory`), a network
that leads to the witness and to private backends only, and sentinels for credentials. Nothing of the
host, of a real service or of an earlier start can be reached, unless real egress was allowed.
"""

import asyncio
import contextlib
import itertools
import json
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol, Self

from mcphub.catalog.spec import SandboxSpec
from mcphub.errors import Unavailable, UpstreamFailed
from mcphub.isolation import credentials
from mcphub.isolation.backends import detect
from mcphub.isolation.backends.kubeconfig import kubeconfig
from mcphub.isolation.backends.starting import started
from mcphub.isolation.canaries import Canaries, mint
from mcphub.isolation.channel import Channel, Ended, HttpChannel, StdioChannel, opened
from mcphub.isolation.last_words import unready
from mcphub.isolation.model import Call, Observation
from mcphub.isolation.place import Place
from mcphub.isolation.subject import Subject, filled, mentioned_paths
from mcphub.isolation.territory import Territory, give
from mcphub.isolation.witness.authority import TRUST_VARIABLES
from mcphub.isolation.witness.server import Witness
from mcphub.spawn import copies
from mcphub.spawn.discarding import discard
from mcphub.spawn.egress.events import EgressEvent
from mcphub.spawn.spawner import Launch, Process

_OWNER: Final = "check"
_NUMBER: Final = 3
_MOST_REDIRECTS: Final = 32
_START_S: Final = 45.0
_TOLD_APART: Final = frozenset(["content", "contents", "isError", "_meta", "structuredContent"])
_CALL_S: Final = 8.0
_SETTLE_S: Final = 0.05


class Sandbox(Protocol):
    """What the lab needs of `spawn.sandboxed.SandboxedSpawner`.

    Attributes:
        on_egress: Called for each decision of the egress gateway.
    """

    on_egress: Callable[[EgressEvent], None] | None

    async def start(self, launch: Launch) -> Process:
        """Start a process tree."""
        ...

    async def dial(self, instance_id: str, port: int) -> socket.socket:
        """Connect to a port inside of its network."""
        ...


class Running:
    """One started subject and its sessions. Made by `Lab.start`.

    Attributes:
        claims: User -> what its calls say of their user in `_meta`; nothing by default.
        calls: Calls so far.
        dead: The process ended by itself.
    """

    def __init__(
        self, lab: "Lab", process: Process, connect: Callable[[Mapping[str, str]], Channel]
    ) -> None:
        self._lab = lab
        self._process = process
        self._connect = connect
        self._channels: dict[str, Channel] = {}
        self.claims: dict[str, Mapping[str, Any]] = {}
        self.calls = 0
        self.dead = False
        self.initialized: dict[str, Any] = {}

    @property
    def stderr(self) -> list[str]:
        """What it said on stderr lately."""
        return self._process.stderr.lines()

    @property
    def witness(self) -> Witness:
        """Where its connections end."""
        return self._lab.witness

    async def _gone(self) -> None:
        """Give an ending process the moment until it is gone."""
        await asyncio.wait([self._process.exited], timeout=1.0)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.exited.done()

    async def join(self, user: str, headers: Mapping[str, str] | None = None) -> Channel:
        """Open a session for a user; on a pipe both have the same one.

        Raises:
            UpstreamFailed: The server refuses.
        """
        known = self._channels.get(user)
        if known is not None:
            return known
        if not self._lab.subject.is_http and self._channels:
            channel = next(iter(self._channels.values()))
        else:
            channel = self._connect(headers or {})
            try:
                self.initialized = await opened(channel, _START_S)
            except (TimeoutError, Ended) as error:
                await channel.gone()
                why = f"The server does not get ready: {str(error) or 'time limit'}."
                raise unready(why, self.stderr) from None
            except UpstreamFailed:
                await channel.gone()
                raise
        self._channels[user] = channel
        return channel

    def leave(self, user: str) -> None:
        """End a user's session."""
        channel = self._channels.pop(user, None)
        if channel is not None and channel not in self._channels.values():
            channel.close()

    def part(self, user: str) -> Channel:
        """Return a user's session, which is the caller's to close: the user can join anew beside it."""
        return self._channels.pop(user)

    async def call(self, user: str, call: Call, timeout_s: float = _CALL_S) -> Observation:
        """Call as a user and return what that user saw."""
        channel = self.channel(user)
        witness = self.witness
        heard, arrived = channel.notifications.mark(), witness.mark()
        self.calls += 1
        ok, text, late, began = False, "", False, monotonic()
        try:
            answer = await channel.request(
                call.method, self._claimed(user, call), self.patience(user, timeout_s)
            )
            ok, text = told(answer)
        except TimeoutError:
            text, late = "[no answer in time]", True
        except Ended as error:
            text = f"[{error}]"
            await self._gone()
        self.dead = self.ended
        return Observation(
            user,
            call,
            ok,
            text,
            channel.notifications.since(heard),
            witness.since(arrived),
            timed_out=late,
            died=self.dead,
            seconds=monotonic() - began,
        )

    def _claimed(self, user: str, call: Call) -> dict[str, Any]:
        claims = self.claims.get(user)
        return {**call.params(), "_meta": dict(claims)} if claims else call.params()

    def patience(self, user: str, timeout_s: float) -> float:  # noqa: ARG002  by user, behind a hub
        """Return how long an answer to a user is waited for, in seconds."""
        return timeout_s

    async def raw(self, user: str, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of a request that is not an observation, or an empty one."""
        self.calls += 1
        try:
            answer = await self.channel(user).request(method, params, _CALL_S)
        except (TimeoutError, Ended):
            return {}
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    def channel(self, user: str) -> Channel:
        """Return a user's connection."""
        return self._channels[user]

    async def aclose(self) -> None:
        """End everything of it."""
        for channel in set(self._channels.values()):
            await channel.gone()
        self._channels.clear()
        await self._process.stop(0.2)


class Lab(Place):
    """Everything around one subject. An async context manager.

    Args:
        subject: What is checked.
        sandbox: Starts processes.
        directory: Private, empty directory of the check on the host.
        uid: Kernel uid of a started process on this host, for its files.
        real_egress: Hosts that may really be reached; none by default.
    """

    def __init__(
        self,
        subject: Subject,
        sandbox: Sandbox,
        directory: Path,
        *,
        uid: int,
        real_egress: tuple[str, ...] = (),
    ) -> None:
        self._sandbox = sandbox
        self._directory = directory
        self._uid = uid
        self._real_egress = real_egress
        self._port = 20_000 + secrets.randbelow(20_000)
        self._numbers = itertools.count(1)
        args = [filled(arg, self._port) for arg in subject.argv[1:]]
        env = {name: filled(value, self._port) for name, value in subject.env.items()}
        line = " ".join(subject.argv).lower()
        known: Canaries[str] = Canaries()
        super().__init__(
            subject,
            Witness(directory / "witness", known),
            known,
            Territory.plan(
                mentioned_paths([*args, *env.values()]), repository="git" in line or "repo" in line
            ),
            credentials.disguise(
                args,
                env,
                canary=secrets.choice(("BILLING_API_KEY", "BACKUP_TOKEN", "REPORT_SECRET")),
                files={
                    filled(place, self._port): filled(text, self._port)
                    for place, text in subject.files.items()
                },
            ),
        )
        self.own_package = subject.own_package
        self._copied_in_vain = False
        for credential in self.disguise.credentials:
            self.secrets.plant(credential.label, credential.sentinel)
        for path, text in self.disguise.files.items():
            self.territory = self.territory.with_file(path, text)
        ca = str(self.witness.authority.ca_file)
        for path in detect.kubeconfigs(self.disguise.args, self.disguise.env):
            credential = credentials.sentinel_like("token", "file:kubeconfig")
            self.secrets.plant(credential.label, credential.sentinel)
            self.disguise = replace(
                self.disguise, credentials=(*self.disguise.credentials, credential)
            )
            self.territory = self.territory.with_file(path, kubeconfig(credential, ca))
        self.redirect: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        try:
            self._stack.enter_context(self.witness)
            here = f"127.0.0.1:{self.witness.port}"
            self.redirect = {"*:443": here, "*:80": here}
            line = self.disguise.args, self.disguise.env
            if detect.speaks_mail([*self.subject.argv, *line[0]], line[1]):
                self.redirect |= self.witness.mail.redirects()
            for host, port in detect.endpoints(*line):
                if port != self._port:
                    self.redirect[f"{host}:{port}"] = here
            needs = detect.databases(*line)
            self.backends = await started(
                self._stack, needs, self._directory, self.disguise.credentials
            )
            for backend in self.backends:
                self.redirect[backend.named] = backend.real
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        return self

    @asynccontextmanager
    async def start(self, *, with_a: bool) -> AsyncIterator[Running]:
        """Start the subject from nothing and stop it at the end.

        Raises:
            UpstreamFailed, Unavailable: It cannot be started.
        """
        number = next(self._numbers)
        self._sandbox.on_egress = self.heard
        home = self._directory / f"home{number}"
        home.mkdir(mode=0o700)
        await asyncio.to_thread(self.territory.lay, home, with_a=with_a)
        give(home, self._uid)
        launch = self._launch(f"i_check{number}{secrets.token_hex(4)}", home)
        process = await self._sandbox.start(launch)
        self.starts += 1
        running: Running | None = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self.subject.is_http:
                    path = await stack.enter_async_context(
                        self._forwarder(launch.instance_id, number)
                    )
                    await self._listening(launch.instance_id, process)
                    url = filled(self.subject.url, self._port)
                    running = Running(
                        self, process, lambda h: HttpChannel(path, url, h, self._tasks)
                    )
                else:
                    stdout, stdin = process.stdout, process.stdin
                    running = Running(self, process, lambda _: StdioChannel(stdout, stdin))
                yield running
        finally:
            if running is not None:
                self.calls += running.calls
                await running.aclose()
            else:
                await process.stop(0)
            if self.own_package and not self.wrote_package:
                self.wrote_package = await asyncio.to_thread(_written, launch)
            for place in (home, copies.beside(home)):
                await asyncio.to_thread(discard, place)

    def open_package(self) -> bool:
        """Let later starts write beside the server's code; returns whether that is anything new."""
        new = not (self.own_package or self._copied_in_vain) and self.subject.source is not None
        self.own_package |= new
        return new

    def close_package(self) -> bool:
        """Do without a copy that cannot be made; returns whether one was opened by `open_package`."""
        opened_here = self.own_package and not self.subject.own_package
        self.own_package &= not opened_here
        self._copied_in_vain |= opened_here
        return opened_here

    def stand_in(self, host: str, port: int) -> bool:
        """Let later starts find the stand-in at a local address; returns whether that is anything new."""
        named = f"{host}:{port}"
        if port == self._port or named in self.redirect or len(self.redirect) >= _MOST_REDIRECTS:
            return False
        self.redirect[named] = f"127.0.0.1:{self.witness.port}"
        return True

    async def serve(self, kind: str) -> bool:
        """Let later starts find a database of a kind at its usual port; returns whether that is anything new."""
        if any(backend.kind == kind for backend in self.backends):
            return False
        need = detect.usual(kind, mint())
        place = self._directory / f"served{len(self.served)}"
        place.mkdir()
        try:
            self.backends += await started(self._stack, [need], place, ())
        except Unavailable:
            return False  # it is not installed here: what is missing is told by the server
        self.redirect[self.backends[-1].named] = self.backends[-1].real
        self.served.append(need)
        return True

    def heard(self, event: EgressEvent) -> None:
        """Take what the egress gateway tells: which backends were reached."""
        for backend in self.backends:
            host, _, port = backend.named.partition(":")
            same = event.host == host or {event.host, host} <= {"127.0.0.1", "localhost"}
            if event.kind == "allowed" and same and event.port == int(port):
                backend.reached = True

    def _launch(self, instance_id: str, home: Path) -> Launch:
        ca = self.witness.authority.ca_file
        env = {name: str(ca) for name in TRUST_VARIABLES} | dict(self.disguise.env)
        return Launch(
            instance_id=instance_id,
            owner=_OWNER,
            number=_NUMBER,
            argv=(self.subject.argv[0], *self.disguise.args),
            env=env,
            home=home,
            readable=(*self.subject.readable, ca.parent),
            own=(self.subject.source,) if self.own_package and self.subject.source else (),
            sandbox=SandboxSpec(
                egress=self._real_egress,
                redirect=self.redirect,
                memory_mb=self.subject.memory_mb,
                pids=256,
            ),
        )

    @asynccontextmanager
    async def _forwarder(self, instance_id: str, number: int) -> AsyncIterator[str]:
        """Serve a socket path that leads to the subject's port inside of its network."""
        path = self._directory / f"s{number}"

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                inner = await self._sandbox.dial(instance_id, self._port)
                theirs_in, theirs_out = await asyncio.open_connection(sock=inner)
            except (Unavailable, OSError):
                writer.close()
                return
            await asyncio.gather(_copy(reader, theirs_out), _copy(theirs_in, writer))

        server = await asyncio.start_unix_server(serve, path, limit=1024 * 1024)
        try:
            yield str(path)
        finally:
            server.close()

    async def _listening(self, instance_id: str, process: Process) -> None:
        """Wait until the subject listens."""
        try:
            async with asyncio.timeout(_START_S):
                while True:
                    with contextlib.suppress(Unavailable):
                        (await self._sandbox.dial(instance_id, self._port)).close()
                        return
                    if process.exited.done():
                        break
                    await asyncio.sleep(_SETTLE_S)
        except TimeoutError:
            pass
        raise unready("The server does not listen on its port.", process.stderr.lines())


def told(answer: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether an answer is a success, and everything in it as text."""
    error = answer.get("error")
    if error is not None:
        message = error.get("message") if isinstance(error, dict) else error
        return False, f"[error] {message}"
    result = answer.get("result")
    if not isinstance(result, dict):
        return True, str(result)
    parts: list[str] = []
    for part in result.get("content") or result.get("contents") or []:
        if isinstance(part, dict):
            inner = part.get("resource")
            text = part.get("text")
            if text is None and isinstance(inner, dict):
                text = inner.get("text")
            parts.append(text if isinstance(text, str) else _flat(part))
    rest = {k: v for k, v in result.items() if k not in _TOLD_APART}
    structured = result.get("structuredContent")
    if structured is not None and not (parts and _same(structured, parts)):
        parts.append(_flat(structured))
    if rest:
        parts.append(_flat(rest))
    failed = result.get("isError") is True
    return not failed, ("[tool error] " if failed else "") + "\n".join(parts)


def _same(structured: object, parts: list[str]) -> bool:
    """Tell whether structured content only repeats the text, maybe in a wrapper."""
    text = "".join(parts).replace(" ", "")
    if isinstance(structured, dict) and set(structured) == {"result"}:
        inner = structured["result"]
        words = [inner] if isinstance(inner, str) else inner
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return all(word.replace(" ", "") in text for word in words)
    return _flat(structured).replace(" ", "") in text


def _flat(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _written(launch: Launch) -> bool:
    """Tell whether a file in a copy is new, or another than in the package; compiled code is no data."""
    return any(
        path.is_file() and "__pycache__" not in path.parts and _is_other(path, source / place)
        for copy, source in copies.of(launch)
        for path in copy.rglob("*")
        for place in [path.relative_to(copy)]
    )


def _is_other(path: Path, like: Path) -> bool:
    if not like.is_file():
        return True
    own, theirs = path.stat(), like.stat()
    return (own.st_size, own.st_mtime_ns) != (theirs.st_size, theirs.st_mtime_ns)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    writer.close()
