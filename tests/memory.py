"""Looks for text in the memory of a process."""

import contextlib
import os
from pathlib import Path


def holds(pid: int, *wanted: str) -> set[str]:
    """Which of these texts are in the memory of a process that it can write."""
    found = set()
    with contextlib.ExitStack() as stack:
        maps = stack.enter_context(Path(f"/proc/{pid}/maps").open())
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        stack.callback(os.close, memory)
        for line in maps:
            place, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            start, end = (int(text, 16) for text in place.split("-"))
            with contextlib.suppress(OSError):
                data = os.pread(memory, end - start, start)
                found |= {word for word in wanted if word.encode() in data}
    return found
