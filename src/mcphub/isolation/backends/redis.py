"""A private, throw-away Redis server for isolation checks and tests: no file, loopback only."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mcphub.isolation.backends.guarded import (
    NotInstalled,
    data_directory,
    free_port,
    private_file,
    serving,
)

_ACCOUNT = "redis"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin"


@contextmanager
def private_redis(tmp: Path, *, password: str = "") -> Iterator[str]:
    """Run a server for the block; yield `redis://127.0.0.1:port`.

    Args:
        tmp: Existing directory for its files, when the caller is not root.
        password: Of the default user; none when empty.

    Raises:
        NotInstalled: There is no Redis on this machine.
        DidNotStart: The server does not start.
    """
    server = shutil.which("redis-server", path=_PATH)
    if server is None:
        raise NotInstalled("Redis is not installed. Run: apt-get install redis-server")
    with data_directory(tmp, _ACCOUNT) as base:
        port = free_port()
        lines = [
            f"port {port}", "bind 127.0.0.1", 'save ""', "appendonly no", f"dir {base}",
            "maxmemory 64mb", "daemonize no",
        ]  # fmt: skip
        if password:
            lines.append(f"requirepass {password}")
        settings = private_file(base / "redis.conf", "\n".join(lines) + "\n", _ACCOUNT)
        with serving(
            [server, str(settings)],
            _ACCOUNT,
            base,
            ready="Ready to accept connections",
            stop=signal.SIGTERM,
        ):
            yield f"redis://127.0.0.1:{port}"
