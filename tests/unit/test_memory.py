"""Memory of large messages is kept while they come and given back afterwards."""

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio
from mcphub.memory import give_back, keep_large_buffers, resident

MB = 1024 * 1024

def message():
    parts = [b"x" * (64 * 1024) for _ in range(400)]
    return len(b"".join(parts))

async def main():
    if not keep_large_buffers():
        print("no glibc")
        return
    giving = asyncio.ensure_future(give_back(0.01))
    await asyncio.sleep(0)
    before = resident()
    message()
    kept = resident() - before
    async with asyncio.timeout(20):
        while resident() - before > 8 * MB:
            await asyncio.sleep(0.01)
    giving.cancel()
    print("kept" if kept > 20 * MB else f"not kept: {kept}")

asyncio.run(main())
"""


def test_buffers_of_large_messages_are_kept_and_given_back_later():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60
    )
    if done.stdout.strip() == "no glibc":
        pytest.skip("this C library has no mallopt")
    assert done.stdout.strip() == "kept", done.stderr
