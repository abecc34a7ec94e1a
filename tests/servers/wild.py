"""A server that misbehaves on request, by its tool's name; otherwise it echoes. No dependencies."""

import json
import mmap
import os
import sys
import time

WILD = {}
KEPT = []


def wild(function):
    WILD[function.__name__] = function
    return function


@wild
def echo():
    return "still here"


@wild
def hog():
    kept = []
    while True:
        kept.append(bytearray(8_000_000))


@wild
def bomb():
    made = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(600)
            made += 1
        except OSError:
            return f"{made} made"


@wild
def fill_home():
    for number in range(1000):
        with open(f"/home/u/fill{number}", "wb") as file:
            file.write(b"x" * 1_000_000)
        time.sleep(0.02)
    return "filled"


@wild
def fill_without_names():
    for number in range(100):
        file = os.open("/home/u/hidden", os.O_RDWR | os.O_CREAT)
        os.unlink("/home/u/hidden")
        for _ in range(8):
            os.write(file, b"x" * 1_000_000)
        if number % 2:  # it stays as long as it is mapped
            KEPT.append(mmap.mmap(file, 4096))
            os.close(file)
        time.sleep(0.2)
    return "filled"


@wild
def big_file():
    with open("/home/u/big", "wb") as file:
        while True:
            file.write(b"x" * 1_000_000)


@wild
def fill_tmp():
    with open("/tmp/fill", "wb") as file:
        while True:
            file.write(b"x" * 1_000_000)


@wild
def clean_up():
    for name in os.listdir("/home/u"):
        os.unlink(f"/home/u/{name}")
    return "clean"


@wild
def flood_stdout():
    line = b'{"jsonrpc":"2.0","method":"notifications/nothing"}\n' * 1000
    until = time.monotonic() + 8
    while time.monotonic() < until:
        os.write(1, line)
    return "flooded"


@wild
def flood_stderr():
    line = b"x" * 99 + b"\n"
    until = time.monotonic() + 8
    while time.monotonic() < until:
        os.write(2, line * 1000)
    return "flooded"


@wild
def endless_line():
    while True:
        os.write(1, b"x" * 1_000_000)


@wild
def hang():
    while True:
        time.sleep(600)


@wild
def crash():
    os._exit(3)


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            continue
        results = {
            "initialize": {
                "protocolVersion": "2025-06-18",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "wild", "version": "1"},
            },
            "tools/list": {
                "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in WILD]
            },
        }
        if message["method"] == "initialize" and "--slow" in sys.argv:
            time.sleep(2.5)
        if message["method"] == "tools/call":
            try:
                said, wrong = str(WILD[message["params"]["name"]]()), False
            except OSError as error:
                said, wrong = f"OSError: {error.strerror}", True
            result = {"content": [{"type": "text", "text": said}], "isError": wrong}
        else:
            result = results.get(message["method"], {})
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        os.write(1, json.dumps(answer).encode() + b"\n")


main()
