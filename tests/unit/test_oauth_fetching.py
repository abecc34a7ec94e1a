"""Where the hub goes for OAuth, and where it does not, whatever a server's metadata say (rule R20)."""

import asyncio
import contextlib
import socket

import pytest

from mcphub.errors import HubError
from mcphub.oauth.failing import AddressRefused, AuthorizationFailed
from mcphub.oauth.fetching import LIMIT_BYTES, Fetcher

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def answering(*answers):
    """A port of 127.0.0.1 that gives one raw answer after the other; yields port and requests."""
    seen, left = [], list(answers)

    async def take(reader, writer):
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(ConnectionError):
            writer.write(left.pop(0) if left else b"")
            await writer.drain()
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


def http(body, status="200 OK", *headers):
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def named(*hosts):
    return Fetcher("notes", frozenset(hosts))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/",
        "https://100.100.100.200/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://user:secret@example.com/",
        "https://user@example.com/",
        "https://example.com/#part",
        "https:///nowhere",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://example.com/",
        "gopher://example.com/",
        "https://example.com/" + "x" * 5000,
        "https://exa\nmple.com/",
        "https://example.com:99999/",
        "",
        "//example.com/",
    ],
)
async def test_a_url_that_leads_elsewhere_is_refused_before_anything_is_resolved(url):
    with pytest.raises(AddressRefused):
        await named().get(url)


@pytest.mark.parametrize(
    "host", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "localhost", "localhost."]
)
async def test_a_name_for_this_machine_is_not_connected_to(host):
    async with answering(http(b"{}")) as (port, seen):
        with pytest.raises(HubError):
            await named().get(f"https://{host}:{port}/")
    assert seen == []


async def test_a_name_is_judged_by_the_address_that_is_connected_to(monkeypatch):
    """The second answer of the name server would be a private address: it is never asked for."""
    asked = []

    def resolve(host, port, *, flags=0, **more):
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "93.184.215.14"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    async def take(_, writer):
        connected.append(writer)
        writer.close()

    connected = []
    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with server:
        with pytest.raises(AddressRefused):
            await named().get(f"https://rebinding.example:{port}/")
    assert asked == ["rebinding.example"] and connected == []


async def test_what_the_administrator_named_may_be_here():
    async with answering(http(b'{"a": 1}')) as (port, _):
        answer = await named("127.0.0.1").get(f"http://127.0.0.1:{port}/")
        assert answer.status == 200 and answer.members == {"a": 1}
    async with answering(http(b'{"a": 1}')) as (port, _):
        assert (await named(f"localhost:{port}").get(f"http://localhost:{port}/")).status == 200
        with pytest.raises(AddressRefused):
            await named(f"localhost:{port + 1}").get(f"http://localhost:{port}/")


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200"])
async def test_machine_metadata_is_out_of_reach_under_any_name(address):
    with pytest.raises(AddressRefused):
        await named(address).get(f"https://{address}/")


async def test_plain_http_is_for_this_machine_only_even_when_named():
    with pytest.raises(AddressRefused):
        await named("10.0.0.1").get("http://10.0.0.1/")


async def test_a_redirect_is_an_answer_and_no_way_to_go():
    async with answering(http(b"secret")) as (elsewhere, asked):
        moved = http(b"", "302 Found", f"Location: http://127.0.0.1:{elsewhere}/")
        async with answering(moved) as (port, _):
            answer = await named("127.0.0.1").get(f"http://127.0.0.1:{port}/")
    assert (answer.status, answer.members, asked) == (302, {}, [])


async def test_an_answer_is_bounded():
    body = b"x" * (LIMIT_BYTES + 1)
    async with answering(http(body)) as (port, _):
        with pytest.raises(AuthorizationFailed, match="more than"):
            await named("127.0.0.1").get(f"http://127.0.0.1:{port}/")


async def test_a_compressed_answer_is_bounded_by_what_it_becomes():
    import gzip

    body = gzip.compress(b"\0" * (LIMIT_BYTES * 40))
    assert len(body) < LIMIT_BYTES
    async with answering(http(body, "200 OK", "Content-Encoding: gzip")) as (port, _):
        with pytest.raises(HubError):
            await named("127.0.0.1").get(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("host", [f"{'a' * 64}.example", "a..b", "."])
async def test_what_cannot_be_a_name_is_told_like_a_host_that_is_not_there(host):
    with pytest.raises(HubError):
        await named().get(f"https://{host}/")


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b'{"a":' * 40_000, b'{"a":"\\ud800"}', b'{"a":"\xff"}', b"", b"7"]
)
async def test_a_body_that_is_no_object_has_no_members(body):
    async with answering(http(body)) as (port, _):
        answer = await named("127.0.0.1").get(f"http://127.0.0.1:{port}/")
    assert answer.members == {} and answer.document(dict[str, str]) is None


async def test_an_error_shows_no_path_and_no_query():
    with pytest.raises(HubError) as caught:
        await named("127.0.0.1").get("http://127.0.0.1:1/path?token=canary")
    assert "canary" not in str(caught.value) and "/path" not in str(caught.value)
