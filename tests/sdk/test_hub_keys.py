"""Keys that a server fetches from its hub: kept, fetched anew for a new id, bounded, never weakened."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import anyio
import pytest

from mcphub_sdk.keys import HubKeys, KeysUnavailable
from mcphub_sdk.testing import TestHub

pytestmark = pytest.mark.anyio


class Published:
    """A key set at a URL; counts who asks."""

    def __init__(self):
        self.body, self.status, self.asked = b"", 200, 0

    def publish(self, *hubs):
        keys = [{**hub.jwks["keys"][0], "kid": kid} for kid, hub in hubs]
        self.body = json.dumps({"keys": keys}).encode()


@contextmanager
def publishing():
    state = Published()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.asked += 1
            self.send_response(state.status)
            self.send_header("Content-Length", str(len(state.body)))
            if state.status == 302:
                self.send_header("Location", "http://127.0.0.1:1/")
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


async def test_a_known_key_is_kept_and_a_new_one_is_fetched_at_once():
    now = [1000.0]
    with publishing() as hub:
        keys = HubKeys(hub.url, lambda: now[0])
        hub.publish(("a", TestHub()))
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(keys.key, "a")
        assert hub.asked == 1
        hub.publish(("b", TestHub()), ("a", TestHub()))
        assert await keys.key("b") is not None and await keys.key("a") is not None
        assert hub.asked == 2
        now[0] += 3601  # an old set is looked at again, and a retired key goes
        hub.publish(("b", TestHub()))
        assert await keys.key("a") is None


async def test_ids_that_nobody_has_do_not_make_it_ask_without_end():
    now = [1000.0]
    with publishing() as hub:
        keys = HubKeys(hub.url, lambda: now[0])
        hub.publish(("a", TestHub()))
        for number in range(50):
            assert await keys.key(f"made-up-{number}") is None
        assert hub.asked <= 6 and await keys.key("a") is not None
        now[0] += 61
        await keys.key("made-up")
        assert hub.asked <= 7


@pytest.mark.parametrize("trouble", ["status", "redirect", "size", "no json", "list"])
async def test_a_hub_in_trouble_weakens_nothing(trouble):
    now = [1000.0]
    with publishing() as hub:
        hub.publish(("a", TestHub()))
        keys = HubKeys(hub.url, lambda: now[0])
        assert await keys.key("a") is not None
        hub.status = {"status": 500, "redirect": 302}.get(trouble, 200)
        hub.body = {"size": b"[" * 70_000, "no json": b"<html>", "list": b"[]"}.get(
            trouble, hub.body
        )
        assert await keys.key("b") is None
        now[0] += 3601
        assert await keys.key("a") is not None  # the old set counts while there is no new one
        with pytest.raises(KeysUnavailable):
            await HubKeys("http://127.0.0.1:1", lambda: now[0]).key("a")


@pytest.mark.parametrize("url", ["http://hub.example", "ftp://127.0.0.1", "http://127.0.0.1.evil"])
def test_keys_come_by_https_or_from_this_machine(url):
    with pytest.raises(ValueError, match="https"):
        HubKeys(url, lambda: 0.0)
