"""A private, throw-away MariaDB server for tests and the demo.

A real server without durability, reachable at 127.0.0.1 on a free port and by a socket in its own
directory. Not for data that anybody wants to keep.
"""

import re
import secrets
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
    run,
    serving,
)

_ACCOUNT = "mysql"
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PASSWORD = re.compile(r"[A-Za-z0-9_.~-]{1,128}")


@contextmanager
def private_mariadb(
    tmp: Path, *, user: str = "mcphub", password: str = "", database: str = "mcphub"
) -> Iterator[str]:
    """Run a server for the block; yield `mysql://user:password@127.0.0.1:port/database`.

    Args:
        tmp: Existing directory for the data, when the caller is not root.
        user: Account with every right; the built-in `root` gets a random password.
        password: Its password; random when empty.
        database: Database to create.

    Raises:
        NotInstalled: There is no MariaDB on this machine.
        DidNotStart: The server does not start.
    """
    password = password or secrets.token_hex(12)
    if not (_NAME.fullmatch(user) and _NAME.fullmatch(database) and _PASSWORD.fullmatch(password)):
        raise ValueError("user and database are plain lower-case names, the password is URL-safe")
    server, install = (_program(name) for name in ("mariadbd", "mariadb-install-db"))
    with data_directory(tmp, _ACCOUNT) as base:
        data = str(base / "data")
        run(
            [
                install,
                "--no-defaults",
                f"--datadir={data}",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                "--skip-name-resolve",
            ],
            _ACCOUNT,
            base,
        )
        first = private_file(
            base / "first.sql",
            # Of the built-in accounts only root@localhost stays; the others have no password.
            "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');\n"
            "FLUSH PRIVILEGES;\n"
            f"ALTER USER root@localhost IDENTIFIED BY '{secrets.token_hex(16)}';\n"
            f"CREATE DATABASE `{database}`;\n"
            f"CREATE USER `{user}`@`%` IDENTIFIED BY '{password}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO `{user}`@`%` WITH GRANT OPTION;\n",
            _ACCOUNT,
        )
        port = free_port()
        with serving(
            [
                server,
                "--no-defaults",
                f"--datadir={data}",
                f"--port={port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                f"--init-file={first}",
                f"--socket={base}/s",
                f"--pid-file={base}/pid",
                f"--tmpdir={base}",
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-buffer-pool-size=16M",
                "--innodb-log-file-size=8M",
                "--performance-schema=OFF",
                "--max-connections=60",
            ],
            _ACCOUNT,
            base,
            ready="ready for connections",
            stop=signal.SIGTERM,
        ):
            yield f"mysql://{user}:{password}@127.0.0.1:{port}/{database}"


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise NotInstalled("MariaDB is not installed. Run: apt-get install mariadb-server")
    return found
