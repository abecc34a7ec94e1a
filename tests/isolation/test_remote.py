"""A server that runs elsewhere is checked at its address: sessions are the only separation."""

import os
import socket
import subprocess
import sys

import anyio
import pytest

from mcphub.isolation.model import Verdict
from mcphub.isolation.remote import RemoteLab
from mcphub.isolation.subject import Subject
from mcphub.isolation.through import check_through
from tests.isolation.checking import PLACE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(200)]
NOBODY = {"A": {}, "B": {}}
TOKENS = {"A": {"Authorization": "Bearer a-1"}, "B": {"Authorization": "Bearer b-1"}}


async def checked(tmp_path, name, leaky, headers):
    """Check a variant that listens on this host, as somebody else's server would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(  # noqa: ASYNC220  started and not waited for
        [sys.executable, "-m", "mutants", name, "leaky" if leaky else "clean"],
        env=os.environ | {"PYTHONPATH": str(PLACE.parent), "PORT": str(port)},
    )
    try:
        with anyio.fail_after(30):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
                    break
                except OSError:
                    await anyio.lowlevel.checkpoint()
        url = f"http://127.0.0.1:{port}/mcp"
        subject = Subject("elsewhere", "", (url,), url=url)
        return await check_through(RemoteLab(subject, tmp_path, headers), 100, lambda _: None)
    finally:
        server.kill()
        server.wait(10)


@pytest.mark.parametrize(
    ("name", "headers", "leak"),
    [
        ("GlobalMemory", NOBODY, "state"),
        ("SessionReuse", NOBODY, "state"),
        ("StolenSession", TOKENS, "identifier"),
    ],
)
async def test_what_sessions_do_not_separate_is_found_at_the_address(tmp_path, name, headers, leak):
    result = await checked(tmp_path, name, True, headers)
    assert (result.verdict, result.classes) == (Verdict.LEAK, (leak,)), result


@pytest.mark.parametrize(
    ("name", "headers"),
    [("GlobalMemory", NOBODY), ("SessionReuse", NOBODY), ("StolenSession", TOKENS)],
)
async def test_a_clean_one_is_not_accused_and_not_called_safe_either(tmp_path, name, headers):
    result = await checked(tmp_path, name, False, headers)
    assert (result.verdict, result.safe_to_share) == (Verdict.NO_LEAK_SEEN, None), result
    assert any("where it runs" in note for note in result.notes)


async def test_a_server_that_nobody_answers_for_is_inconclusive(tmp_path):
    subject = Subject("gone", "", ("u",), url="http://127.0.0.1:9/mcp")
    result = await check_through(RemoteLab(subject, tmp_path, NOBODY), 30, lambda _: None)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "where it runs" in result.reason
    assert "does not answer: Connection refused." in result.reason
