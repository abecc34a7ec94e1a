"""Bytes survive the hub where client and server are of one era, whatever they are.

A real hub, a server that gives back what it got and answers what it is told, raw requests.
"""

import json

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.interaction.clients import MODERN, raw_client, remote_for_everyone, scripted, tools
from tests.servers.splitting_http import splitting_server

pytestmark = pytest.mark.anyio
SCRIPT = {"tools": tools("line", "verbatim")}
SERVERS = {"one": scripted(SCRIPT), "new": scripted(SCRIPT | {"modern": True})}
live = settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NUMBERS = st.sampled_from(
    ["0", "-0", "-0.0", "1.0", "1e3", "1E+2", "1e-400", "1e400", "0.1", "12345678901234567890123456789",
     "-9007199254740993", "3.141592653589793238462643383279502884197"]
)  # fmt: skip
TEXTS = st.text(max_size=12).map(json.dumps) | st.text(max_size=12).map(
    lambda value: json.dumps(value, ensure_ascii=False)
)
WORDS = st.sampled_from(
    [r'"é\/\b\f\n"', '"💥"', '"\\ud83d\\ude00"', '"</script>"', '"\\u0000"', '""', '"\u2028"']
)
SPACES = st.sampled_from(["", " ", "  ", "\t"])


def _array(inner):
    return st.tuples(SPACES, st.lists(inner, max_size=4)).map(
        lambda both: "[" + both[0] + f",{both[0]}".join(both[1]) + both[0] + "]"
    )


def _object(inner):
    names = TEXTS | WORDS
    return st.tuples(SPACES, st.lists(st.tuples(names, inner), max_size=4)).map(
        lambda both: (
            "{"
            + ",".join(f"{both[0]}{n}{both[0]}:{both[0]}{v}" for n, v in both[1])
            + both[0]
            + "}"
        )
    )


SCALARS = st.sampled_from(["null", "true", "false"]) | NUMBERS | TEXTS | WORDS
RAW = st.recursive(SCALARS, lambda inner: _array(inner) | _object(inner), max_leaves=25)
"""Text of any JSON value as somebody may write it: members twice, odd numbers, blanks."""
RAW_OBJECT = _object(RAW)


def body_of(name, arguments, *, raw_id='"own"', params="", meta=""):
    """Write a call as text."""
    meta = f',"_meta":{{{meta}}}' if meta else ""
    inner = f'{{"name":{json.dumps(name)},"arguments":{arguments}{params}{meta}}}'
    return f'{{"jsonrpc":"2.0","id":{raw_id},"method":"tools/call","params":{inner}}}'.encode()


async def posted(client, body):
    """Post bytes; returns the answer's bytes."""
    headers = client.headers | {"Content-Type": "application/json"}
    answer = await client.http.post(client.url, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.requirement("11")
@live
@given(result=RAW, raw_id=st.integers(-(2**70), 2**70).map(str) | TEXTS)
async def test_a_result_arrives_byte_for_byte_under_its_own_id(hub, result, raw_id):
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open()
        body = body_of("verbatim", json.dumps({"result": result}), raw_id=raw_id)
        expected = f'{{"jsonrpc":"2.0","id":{raw_id},"result":{result}}}'
        assert await posted(alice, body) == expected.encode()


@pytest.mark.requirement("11")
@live
@given(arguments=RAW_OBJECT, more=RAW, vendor=RAW)
async def test_what_a_client_sends_arrives_byte_for_byte(hub, arguments, more, vendor):
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open()
        meta = f'"example.com/x":{vendor},"traceparent":"t","tracestate":null'
        body = body_of("line", arguments, params=f',"future":{more}', meta=meta)
        answer = json.loads(await posted(alice, body))
        line = answer["result"]["content"][0]["text"]
        assert f'"arguments":{arguments},"future":{more},"_meta":{{{meta}}}}}' in line


@pytest.mark.requirement("11")
@live
@given(kept=RAW, arguments=RAW_OBJECT, vendor=RAW)
async def test_a_modern_pair_keeps_every_byte_both_ways(hub, kept, arguments, vendor):
    async with raw_client(hub, "alice", "new") as alice:
        result = f'{{"resultType":"complete","content":[],"kept":{kept}}}'
        params = {"name": "verbatim", "arguments": {"result": result}}
        answer = await alice.modern("tools/call", params, id="own")
        assert answer.content == f'{{"jsonrpc":"2.0","id":"own","result":{result}}}'.encode()
        own = (
            f'"io.modelcontextprotocol/protocolVersion":"{MODERN}",'
            '"io.modelcontextprotocol/clientCapabilities":{}'
        )
        body = body_of("line", arguments, meta=f'"example.com/x":{vendor},{own}')
        routing = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": "line"}
        headers = routing | {"Content-Type": "application/json"}
        answer = await alice.http.post(alice.url, content=body, headers=headers)
        line = answer.json()["result"]["content"][0]["text"]
        assert f'"arguments":{arguments},' in line and f'"example.com/x":{vendor}' in line


@pytest.mark.requirement("11")
@live
@given(result=RAW_OBJECT)
async def test_a_modern_client_gets_every_member_of_a_legacy_result(hub, result):
    """Translated, so not byte for byte: members are added, none is changed or lost."""
    text = f'{{"kept":{result},"_meta":{{"example.com/x":null}}}}'
    async with raw_client(hub, "alice", "one") as alice:
        params = {"name": "verbatim", "arguments": {"result": text}}
        answer = await alice.modern("tools/call", params)
        assert f'"kept":{result},"_meta":{{"example.com/x":null'.encode() in answer.content
        assert answer.json()["result"]["resultType"] == "complete"


DEEP = [1, 50, 400]


@pytest.mark.requirement("11")
@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize("pair", ["[]", ["{", "}"]])
async def test_deep_values_pass_both_ways(hub, depth, pair):
    deep = "[" * depth + "]" * depth if pair == "[]" else '{"a":' * depth + "1" + "}" * depth
    async with raw_client(hub, "alice", "one") as alice:
        await alice.open()
        answer = await posted(alice, body_of("verbatim", json.dumps({"result": deep})))
        assert answer.endswith(f',"result":{deep}}}'.encode())
        line = json.loads(await posted(alice, body_of("line", f'{{"deep":{deep}}}')))
        assert f'"arguments":{{"deep":{deep}}}' in line["result"]["content"][0]["text"]


@pytest.mark.requirement("11")
@pytest.mark.parametrize("era", ["legacy", MODERN])
async def test_a_bomb_of_brackets_is_told_for_what_it_is_in_both_directions(hub, era):
    bomb = "[" * 100_000 + "]" * 100_000
    async with raw_client(hub, "alice", "one") as alice, raw_client(hub, "bob", "one") as bob:
        await bob.open()
        if era == "legacy":
            await alice.open()
        headers = alice.headers | {"Content-Type": "application/json"}
        sent = await alice.http.post(
            alice.url, content=body_of("line", f'{{"a":{bomb}}}'), headers=headers
        )
        assert sent.status_code == 400
        assert (
            sent.json()["error"]["code"] == -32700 and "nested" in sent.json()["error"]["message"]
        )
        params = {"name": "verbatim", "arguments": {"result": bomb}}
        with_time = httpx2.Timeout(20)
        alice.http.timeout = with_time
        if era == "legacy":
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            got = await alice.post(message)
        else:
            got = await alice.modern("tools/call", params)
        result = got.json()["result"]
        assert result["isError"] and "cannot be read" in result["content"][0]["text"]
        assert b'"result":1' in await posted(bob, body_of("verbatim", '{"result":"1"}'))


@pytest.fixture(scope="module")
async def split_hub(anyio_backend, tmp_path_factory):
    """A hub in front of the server that cuts its event streams into pieces."""
    async with splitting_server() as url:
        async with remote_for_everyone(tmp_path_factory.mktemp("split") / "hub", url) as running:
            yield running


@pytest.mark.requirement("11")
@live
@given(
    result=RAW,
    cuts=st.lists(st.integers(1, 40), max_size=12) | st.just([1] * 400),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    lines=st.integers(1, 3),
    noise=st.booleans(),
)
async def test_an_event_stream_means_the_same_wherever_it_is_cut(
    split_hub, result, cuts, end, lines, noise
):
    async with raw_client(split_hub, "root", "remote") as root:
        await root.open()
        how = {"result": result, "cuts": cuts, "end": end, "lines": lines, "noise": noise}
        answer = await posted(root, body_of("split", json.dumps(how)))
        # a line break between tokens becomes a blank: the message travels on one line
        expected = json.dumps(json.loads(f'{{"r":{result}}}')["r"])
        assert json.dumps(json.loads(answer)["result"]) == expected
        if lines == 1:
            assert answer == f'{{"jsonrpc":"2.0","id":"own","result":{result}}}'.encode()


NASTY = [
    {
        "name": "a",
        "inputSchema": {"type": "object", "x-y": None},
        "annotations": {"future": [1, None]},
    },
    {
        "name": "b",
        "inputSchema": {},
        "outputSchema": None,
        "icons": [{"src": "data:,", "z": 10**30}],
    },
    {
        "name": "c",
        "inputSchema": {"$ref": "https://example.com/x"},
        "_meta": {"e.x/y": {"deep": [[]]}},
    },
    {"name": "d", "inputSchema": True, "execution": {"taskSupport": "optional"}, "title": ""},
]


@pytest.mark.requirement("11")
async def test_definitions_of_tools_survive_alone_and_among_others(tmp_path):
    from mcphub.testing.hub import serving_hub

    servers = {"one": scripted({"tools": NASTY}), "two": scripted({"tools": NASTY})}
    async with serving_hub(tmp_path / "hub", servers, {"alice": []}, environ={}) as hub:
        for server, prefix in (("one", ""), ("", "one__")):
            async with raw_client(hub, "alice", server) as alice:
                for answer in (
                    await alice.modern("tools/list"),
                    await alice.open()
                    and await alice.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
                ):
                    listed = answer.json()["result"]["tools"][: len(NASTY)]
                    assert listed == [tool | {"name": prefix + tool["name"]} for tool in NASTY]
