"""Spans of calls at a real OTLP/HTTP receiver: those that a caller asks for, and a share of the others."""

import gzip
import json
import os
import sys
import threading
import time
from contextlib import asynccontextmanager

import anyio
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from structlog.testing import capture_logs

from mcphub.errors import InvalidInput
from mcphub.testing.hub import serving_hub
from tests.interaction.clients import plain, raw_client, request
from tests.polling import until

pytestmark = pytest.mark.anyio
ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"


class Collector:
    """An OTLP/HTTP receiver: what it got, and how it answers."""

    def __init__(self):
        self.bodies, self.headers, self.spans, self.resources = [], [], [], []
        self.status, self.answers = 200, anyio.Event()
        self.answers.set()
        self.paths, self.url = [], ""

    async def take(self, got):
        body = await got.read()
        if got.headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.paths.append(got.path)
        self.headers.append(dict(got.headers))
        await self.answers.wait()
        if self.status == 200:
            self.bodies.append(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes(resource.resource))
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    async def got(self, count=1):
        """The spans, once there are so many."""
        await until(lambda: len(self.spans) >= count)
        return self.spans


@pytest.fixture
async def collector():
    """A receiver that runs."""
    found = Collector()
    app = web.Application()
    app.router.add_post("/{path:.*}", found.take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    found.answers.set()
    await runner.cleanup()


@pytest.fixture
def traced(hub_of, collector):
    """Make hubs that export to the collector."""

    @asynccontextmanager
    async def make(**tracing):
        overrides = {"tracing": {"endpoint": collector.url, **tracing}}
        async with hub_of({"plain": plain()}, overrides=overrides) as hub:
            yield hub

    return make


def attributes(of):
    """Attributes of a span or resource as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


class Caller:
    """A user's client, in either era."""

    def __init__(self, raw, era):
        self.raw, self.era, self.id = raw, era, 0

    async def call(self, name, arguments=None, *, trace="", method="tools/call", **headers):
        self.id += 1
        params = {"name": name, "arguments": arguments or {}}
        meta = {"traceparent": trace} if trace else {}
        if self.era == "modern":
            answer = await self.raw.modern(method, params, self.id, meta, **headers)
        else:
            if meta:
                params["_meta"] = meta
            answer = await self.raw.post(request(method, params, self.id), **headers)
        return answer


@asynccontextmanager
async def caller(hub, user="alice", era="legacy", server="plain"):
    async with raw_client(hub, user, server) as raw:
        if era == "legacy":
            await raw.open()
        yield Caller(raw, era)


def known(hub):
    return hub.hub.plane.metrics.known


async def figures(hub):
    """The hub's metrics."""
    async with raw_client(hub, "root") as raw:
        text = (await raw.http.get(f"{hub.url}/metrics")).text
    rows = [line.split() for line in text.splitlines() if line.startswith("mcphub_spans")]
    return {name: float(value) for name, value in rows}


@ERAS
async def test_a_call_that_its_caller_samples_becomes_a_span_of_the_callers_trace(
    traced, collector, era
):
    async with traced() as hub, caller(hub, "alice", era) as alice:
        before = time.time_ns()
        answer = await alice.call("echo", {"text": "private words"}, trace=SAMPLED)
        after = time.time_ns()
        (span,) = await collector.got()
        user = {one.name: one.id for one in await hub.hub.ground.directory.users()}["alice"]
        session = alice.raw.headers.get("Mcp-Session-Id", "")
    assert collector.paths == ["/v1/traces"]
    assert span.name == "tools/call echo"
    assert span.kind == Span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.span_id.hex() not in {PARENT, "0" * 16}
    assert before - 10**7 < span.start_time_unix_nano < span.end_time_unix_nano < after + 10**7
    assert span.status.code == Status.STATUS_CODE_UNSET
    said = attributes(span)
    assert said["mcphub.request.id"] == answer.headers["x-mcphub-request-id"]
    assert said | {"mcphub.request.id": ""} == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2025-11-25" if era == "legacy" else "2026-07-28",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "user.id": user,
        "mcphub.server": "plain",
        "mcphub.instance.id": said["mcphub.instance.id"],
        "mcphub.request.id": "",
        "mcphub.outcome": "ok",
        "mcphub.decision": "permit",
        "mcphub.era": era,
        "mcphub.request.bytes": said["mcphub.request.bytes"],
        "mcphub.response.bytes": len(answer.content),
        **({"mcphub.client": "raw/1"} if era == "legacy" else {}),
    }
    assert collector.resources[0]["service.name"] == "mcphub"
    (body,) = collector.bodies
    for secret in ("private words", hub.keys["alice"], session or "private"):
        assert secret.encode() not in body


@ERAS
async def test_two_users_have_their_own_spans_and_the_unsampled_calls_have_none(
    traced, collector, era
):
    async with (
        traced() as hub,
        caller(hub, "alice", era) as alice,
        caller(hub, "bob", era) as bob,
    ):
        for number in range(5):
            await alice.call("echo", {"text": f"a{number}"}, trace=UNSAMPLED)
            await bob.call("echo", {"text": f"b{number}"})
        assert known(hub) >= 4  # both go known ways although tracing is on
        await alice.call("remember", {"value": "a"}, trace=SAMPLED)
        await bob.call("recall", {}, trace=SAMPLED)
        before = known(hub)
        for _ in range(4):
            await alice.call("recall", {}, trace=SAMPLED)
        assert known(hub) == before  # a call with a span has none
        await collector.got(6)
        ids = {one.name: one.id for one in await hub.hub.ground.directory.users()}
    seen = [(attributes(span)["user.id"], span.name) for span in collector.spans]
    assert sorted(seen) == sorted(
        [
            (ids["alice"], "tools/call remember"),
            (ids["bob"], "tools/call recall"),
            *[(ids["alice"], "tools/call recall")] * 4,
        ]
    )
    assert len({span.span_id for span in collector.spans}) == 6


@ERAS
async def test_a_header_of_the_request_counts_where_the_message_says_nothing(
    traced, collector, era
):
    async with traced() as hub, caller(hub, "alice", era) as alice:
        await alice.call("echo", traceparent=SAMPLED)
        await alice.call("echo", traceparent=SAMPLED, trace=UNSAMPLED)
        for bad in (f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "nonsense-01"):
            await alice.call("echo", trace=bad)
    (span,) = collector.spans  # the end of a hub exports what is left
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


@ERAS
async def test_the_server_of_a_sampled_call_is_told_the_hubs_span(traced, collector, era):
    async with traced() as hub, caller(hub, "alice", era) as alice:
        for given in ({"trace": SAMPLED}, {"traceparent": SAMPLED}, {"trace": UNSAMPLED}):
            answer = (await alice.call("params", {"n": 1}, **given)).json()
            meta = json.loads(answer["result"]["content"][0]["text"]).get("_meta", {})
            if given == {"trace": UNSAMPLED}:
                assert meta["traceparent"] == UNSAMPLED  # as it came
                continue
            span = (await collector.got())[-1]
            assert meta["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
            collector.spans.clear()


@ERAS
async def test_a_share_of_the_calls_that_nobody_samples_has_spans(traced, collector, era):
    async with traced(sample=0.5) as hub, caller(hub, "alice", era) as alice:
        for _ in range(200):
            await alice.call("echo", {"text": "x"})
        assert known(hub) > 20
    spans = [span for span in collector.spans if span.name == "tools/call echo"]
    assert 60 < len(spans) < 140
    assert len({span.trace_id for span in spans}) == len(spans)
    assert not any(span.parent_span_id for span in spans)


async def test_the_record_of_a_span_without_a_caller_names_its_new_trace(traced, collector):
    async with traced(sample=1) as hub, caller(hub) as alice:
        answer = await alice.call("echo")
        await alice.call("echo")
        await until(lambda: any(span.name == "tools/call echo" for span in collector.spans))
        await hub.hub.recorder.flush()
        rows = (await hub.hub.ground.requests.recent(limit=10)).records
    wanted = answer.headers["x-mcphub-request-id"]
    record = next(row for row in rows if row.id == wanted)
    span = next(s for s in collector.spans if attributes(s)["mcphub.request.id"] == wanted)
    assert record.trace_id == span.trace_id.hex()
    assert "initialize" in {span.name for span in collector.spans}


@ERAS
async def test_spans_say_how_calls_failed(traced, collector, era):
    async with traced() as hub, caller(hub, "alice", era) as alice:
        await alice.call("read", {"path": "/no/such/file"}, trace=SAMPLED)
        await alice.call("echo", trace=SAMPLED, method="no/such")
        async with caller(hub, "alice", era) as other:
            other.raw.url = f"{hub.url}/mcp/nowhere"
            if era == "modern":
                await other.call("echo", trace=SAMPLED)
    spans = {span.name: span for span in collector.spans}
    assert all(span.status.code == Status.STATUS_CODE_ERROR for span in spans.values())
    assert attributes(spans["tools/call read"])["error.type"] == "tool_error"
    unknown = attributes(spans["no/such"])
    assert unknown["error.type"] == unknown["rpc.response.status_code"] == "-32601"
    if era == "modern":
        denied = attributes(spans["tools/call"])
        assert denied["mcphub.outcome"] == "denied"
        assert denied["error.type"] not in {"", "ok"}


async def test_a_collector_that_refuses_is_logged_once_and_what_it_refused_is_counted(
    traced, collector
):
    collector.status = 307
    with capture_logs() as log:
        async with traced() as hub, caller(hub) as alice:
            for count in (1, 2):
                await alice.call("echo", trace=SAMPLED)
                await until(lambda count=count: hub.hub.plane.traces.dropped == count)
                collector.status = 400
            collector.status = 200
            await alice.call("echo", trace=SAMPLED)
            await collector.got()
            await until(lambda: hub.hub.plane.traces.exported == 1)
            assert await figures(hub) == {
                "mcphub_spans_waiting": 0,
                "mcphub_spans_exported_total": 1,
                "mcphub_spans_dropped_total": 2,
            }
    said = [entry for entry in log if entry["event"].startswith("tracing.")]
    assert [entry["event"] for entry in said] == [
        "tracing.export_failed",
        "tracing.exported_again",
    ]
    assert "redirects" in said[0]["reason"]


async def test_a_collector_that_never_answers_slows_no_call_and_not_the_end(
    traced, collector, capfd
):
    collector.answers = anyio.Event()
    async with traced() as hub, caller(hub) as alice:
        await alice.call("echo", trace=SAMPLED)
        await until(lambda: collector.headers)
        with anyio.fail_after(10):
            for _ in range(50):
                assert (await alice.call("echo", trace=SAMPLED)).status_code == 200
        assert hub.hub.plane.traces.waiting == 50
        ended = time.monotonic()
    assert time.monotonic() - ended < 9  # sooner than the exporter would give up
    collector.answers.set()
    await until(lambda: all(thread.name != "tracing" for thread in threading.enumerate()))
    assert "Shutdown" not in capfd.readouterr().err


async def test_a_collector_that_is_not_there_slows_no_call(hub_of, free_port):
    overrides = {"tracing": {"endpoint": f"http://127.0.0.1:{free_port}", "sample": 1}}
    async with hub_of({"plain": plain()}, overrides=overrides) as hub, caller(hub) as alice:
        with anyio.fail_after(10):
            for _ in range(50):
                assert (await alice.call("echo")).status_code == 200


@pytest.fixture
def free_port():
    """A port that nobody listens on."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


async def test_headers_for_the_collector_come_from_the_hubs_environment_and_are_not_shown(
    tmp_path, collector
):
    tracing = {
        "endpoint": f"{collector.url}/own/path",
        "sample": 1,
        "headers": {"x-api-key": "${COLLECTOR_KEY}"},
    }
    environ = dict(os.environ) | {"COLLECTOR_KEY": "collector-secret"}
    more = {"environ": environ, "overrides": {"tracing": tracing}}
    with capture_logs() as log:
        async with (
            serving_hub(tmp_path / "hub", {"plain": plain()}, {"alice": []}, **more) as hub,
            caller(hub) as alice,
        ):
            answer = await alice.call("who")
            await collector.got()
    assert collector.paths[0] == "/own/path"
    assert collector.headers[0]["x-api-key"] == "collector-secret"
    assert "collector-secret" not in answer.text  # no server gets the hub's environment
    assert "collector-secret" not in str(log)
    tracing["headers"] = {"x-api-key": "${USER_KEY}"}
    with pytest.raises(InvalidInput, match="cannot be a user's own value"):
        async with serving_hub(tmp_path / "hub", {}, {}, **more):
            pass


async def test_without_the_library_the_hub_says_what_to_install(traced, monkeypatch):
    monkeypatch.delitem(sys.modules, "mcphub.audit.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(InvalidInput, match="OpenTelemetry is not installed") as told:
        async with traced():
            pass
    assert "pip install 'mcphub-gateway[otel]'" in told.value.hint
