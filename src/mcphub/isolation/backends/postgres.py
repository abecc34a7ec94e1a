"""A private, throw-away PostgreSQL server for tests and the demo.

A real server without durability (fsync off), reachable at 127.0.0.1 on a free port and by a socket
in its own directory. Not for data that anybody wants to keep.
"""

import re
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from mcphub.isolation.backends.guarded import (
    NotInstalled,
    data_directory,
    free_port,
    private_file,
    run,
    serving,
)

_INSTALLED = Path("/usr/lib/postgresql")
_ACCOUNT = "postgres"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


@contextmanager
def private_postgres(
    tmp: Path, *, user: str = "mcphub", password: str = "", database: str = "mcphub"
) -> Iterator[str]:
    """Run a server for the block; yield `postgresql://user:password@127.0.0.1:port/database`.

    Args:
        tmp: Existing directory for the cluster, when the caller is not root.
        user: Superuser of the cluster.
        password: Its password; random when empty.
        database: Database to create.

    Raises:
        NotInstalled: There is no PostgreSQL on this machine.
        DidNotStart: The server does not start.
    """
    if not (_NAME.fullmatch(user) and _NAME.fullmatch(database)):
        raise ValueError("user and database are plain lower-case names")
    binaries = _binaries()
    password = password or secrets.token_hex(12)
    with data_directory(tmp, _ACCOUNT) as base:
        data = str(base / "data")
        # The password goes by a private file: a command line is for everybody to read.
        first = private_file(base / "password", f"{password}\n", _ACCOUNT)
        run(
            [
                f"{binaries}/initdb",
                "-D",
                data,
                "-U",
                user,
                f"--pwfile={first}",
                "--no-sync",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ],
            _ACCOUNT,
            base,
        )
        first.unlink()
        if database != "postgres":
            single = [f"{binaries}/postgres", "--single", "-D", data, "-F", "postgres"]
            run(single, _ACCOUNT, base, stdin=f'CREATE DATABASE "{database}"\n')
        port = free_port()
        with serving(
            [
                f"{binaries}/postgres",
                "-D",
                data,
                "-F",
                "-p",
                str(port),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                f"unix_socket_directories={_socket(base)}",
                "-c",
                "full_page_writes=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "shared_buffers=32MB",
                "-c",
                "max_connections=60",
            ],
            _ACCOUNT,
            base,
            ready="database system is ready to accept connections",
            stop=signal.SIGINT,
        ):
            yield f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{port}/{database}"


def _binaries() -> Path:
    found = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise NotInstalled("PostgreSQL is not installed. Run: apt-get install postgresql")
    return found[-1].parent


def _socket(base: Path) -> str:
    """Return the socket's directory; none when its path would be longer than the kernel takes (107)."""
    return str(base) if len(str(base)) < 80 else ""
