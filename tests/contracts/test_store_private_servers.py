"""The throw-away database servers that tests and the demo run."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import asyncpg
import pytest

from mcphub.isolation.backends.mariadb import private_mariadb

pytestmark = pytest.mark.anyio


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_postgresql_wants_the_password(postgres: str) -> None:
    connection = await asyncpg.connect(postgres)
    assert await connection.fetchval("SELECT current_user") == "mcphub"
    await connection.close()
    parts = urlsplit(postgres)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres.replace(str(parts.password), "wrong"))


async def test_mariadb_serves_its_user_and_is_gone_afterwards(tmp_path: Path) -> None:
    with private_mariadb(tmp_path, user="demo", password="p-1", database="shop") as url:
        parts = urlsplit(url)
        assert (parts.username, parts.password, parts.path) == ("demo", "p-1", "/shop")
        client = ["mariadb", "--no-defaults", "-h127.0.0.1", f"-P{parts.port}", "-N"]
        query = [*client, "-udemo", "-pp-1", "shop", "-e", "SELECT database()"]
        done = await anyio.run_process(query)
        assert done.stdout.strip() == b"shop"
        refused = await anyio.run_process([*client, "-uroot", "-e", "SELECT 1"], check=False)
        assert refused.returncode != 0
    assert parts.port is not None
    assert not await accepts(parts.port)


async def test_a_server_ends_with_the_program_that_started_it_even_when_that_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from mcphub.isolation.backends.postgres import private_postgres\n"
        "with private_postgres(Path(sys.argv[1])) as url:\n"
        "    print(url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with tempfile.TemporaryDirectory() as directory, anyio.fail_after(120):
        argv = [sys.executable, "-c", program, directory]
        async with await anyio.open_process(argv, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            url = (await process.stdout.receive()).decode().strip()
            port = urlsplit(url).port
            assert port is not None
            assert await accepts(port)
            os.kill(process.pid, signal.SIGKILL)
            while await accepts(port):  # noqa: ASYNC110  a closed port tells nobody
                await anyio.sleep(0.05)
