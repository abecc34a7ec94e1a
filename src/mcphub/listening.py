"""Listening: the TCP port for clients, the control socket for the administrator, uvicorn on both."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog
import uvicorn

from mcphub.errors import InvalidInput
from mcphub.settings import HubSettings

_log = structlog.get_logger()
SHUTDOWN_S: Final = 5
_CONNECTIONS: Final = 16_384
_FILES_EACH: Final = 6
"""Descriptors of an instance (pipes, process, namespace) and of its user's connection."""
_FILES_BESIDE: Final = 500
_FILES_LEAST: Final = 256
FILES_HINT: Final = (
    "Raise the hard limit (LimitNOFILE= of a service, `ulimit -Hn` of a shell, `--ulimit nofile=` of a "
    "container), or lower limits.instances in mcphub.toml."
)
CALLS_END_S: Final = 4.0
"""Seconds that calls in flight have when the hub stops; the rest is for their answers."""
ANSWERS_S: Final = 1.0
"""Seconds for the answers of a hub that is hurried."""


def raise_open_files() -> int:
    """Allow this process as many open files as the machine lets it have; returns their number.

    An instance takes four or five of them, a client's connection one, and the usual limit is 1,024.
    Instances get their own limit (`sandbox.files`).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    with contextlib.suppress(
        OSError, ValueError
    ):  # not where the hard one is over the kernel's own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def files_wanted(instances: int) -> int:
    """Return how many open files a hub with that many instances may need."""
    return instances * _FILES_EACH + _FILES_BESIDE


def check_open_files(most: int, instances: int) -> None:
    """Say when the open files do not suffice.

    Args:
        most: What this process may have open.
        instances: How many it may run.

    Raises:
        InvalidInput: It cannot serve anybody with so few.
    """
    wanted = files_wanted(instances)
    if 0 <= most < _FILES_LEAST:
        raise InvalidInput(
            f"The hub may open {most} files only, and needs {_FILES_LEAST} to serve at all, "
            f"{wanted} for all instances that it may run.",
            hint=FILES_HINT,
        )
    if 0 <= most < wanted:
        _log.warning("open_files.few", most=most, wanted=wanted, hint=FILES_HINT)


def connections_at_once(wanted: int) -> int:
    """Return how many connections of clients there may be; 0 asks for what the open files allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted or (
        _CONNECTIONS if soft == resource.RLIM_INFINITY else min(_CONNECTIONS, soft // 2)
    )


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the hub has two servers and one way to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `app.serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.up.set()


def server_of(app: object, connection: object = "httptools") -> Server:
    """Return a server of an ASGI application, not listening yet.

    Args:
        app: The application.
        connection: uvicorn's name of a protocol, or what makes one for each connection.
    """
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        http=connection,  # pyright: ignore[reportArgumentType]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # not a line for each request, which may hold codes, nor for what is no HTTP
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=75,
    )
    return Server(config)


def tcp_listener(settings: HubSettings) -> socket.socket:
    """Bind the port for clients.

    Raises:
        InvalidInput: The port or the address cannot be had.
    """
    listen = settings.listen
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # named, so that asyncio knows it is TCP and turns Nagle's algorithm off
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((listen.host, listen.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"The hub cannot listen on {listen.host} port {listen.port}: {error.strerror}.",
            hint="Another program has the port? Use --port, or listen.port in mcphub.toml.",
        ) from None
    return listener


def control_listener(path: Path) -> socket.socket:
    """Bind the control socket, mode 0600; call it as `the_only_hub`, so that no other hub answers there."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise InvalidInput(
            f"The control socket cannot be made: {error.strerror or error}.",
            hint="Its whole path may have 107 characters: use a shorter --dir.",
        ) from None
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Return the URL of a bound port."""
    port = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
