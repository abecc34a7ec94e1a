"""Spans of calls as OpenTelemetry has them, to a collector over OTLP/HTTP.

Imported only where tracing is on: needs the extra `otel`. Names and attributes follow OpenTelemetry's
semantic conventions for MCP (in development; checked on 2026-11-26). Left out although the
conventions know them, because a record does not hold them either: `mcp.session.id`,
`mcp.resource.uri`, `jsonrpc.request.id`, arguments and results.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from mcphub import __version__
from mcphub.audit.records import Outcome, RequestRecord, neutral
from mcphub.audit.tracing import Ended

_TIMEOUT_S: Final = 10.0
_LOGGER: Final = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
_LOGGER.propagate = False
_LOGGER.addHandler(logging.NullHandler())
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SCOPE: Final = InstrumentationScope("mcphub", __version__)


class Exporter:
    """Sends spans to one collector; tries a batch for ten seconds.

    Args:
        endpoint: Full URL, with the path of traces.
        headers: Of each request.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str]) -> None:
        session = requests.Session()
        # no proxy and no .netrc: they are about other programs
        session.trust_env = False
        session.hooks["response"].append(_no_redirect)
        self._resource = Resource.create({"service.name": "mcphub", "service.version": __version__})
        self._exporter = OTLPSpanExporter(
            endpoint,
            headers=dict(headers),
            timeout=_TIMEOUT_S,
            compression=Compression.Gzip,
            session=session,
        )
        self._said = _LastWords()
        _LOGGER.addHandler(self._said)

    def export(self, spans: Sequence[Ended]) -> str:
        """Send spans; return why they did not arrive, or ""."""
        self._said.text = ""
        done = self._exporter.export([span_of(ended, self._resource) for ended in spans])
        if done is SpanExportResult.SUCCESS:
            return ""
        return neutral(self._said.text, 300) or "The collector did not take them."

    def close(self) -> None:
        """End an export that is tried again."""
        self._exporter.shutdown()
        _LOGGER.removeHandler(self._said)


class _LastWords(logging.Handler):
    """Keeps what the exporter said last: the hub logs it once, not for each try."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        # the first says what happened, later ones only that it was given up
        self.text = self.text or record.getMessage()


def _no_redirect(response: requests.Response, *_args: Any, **_more: Any) -> None:
    if response.is_redirect:
        response.close()  # nobody else would
        raise requests.RequestException(
            "The collector redirects; name the URL that it redirects to."
        )


def span_of(ended: Ended, resource: Resource) -> ReadableSpan:
    """Return the span of a call."""
    trace, record = ended.trace, ended.record
    trace_id = int(trace.trace_id, 16)
    parent = None
    if trace.parent_id:
        parent = SpanContext(trace_id, int(trace.parent_id, 16), is_remote=True)
    attributes = _attributes(record, ended.version)
    named = attributes.get("gen_ai.tool.name") or attributes.get("gen_ai.prompt.name")
    method = attributes["mcp.method.name"]
    started_ns = int(record.at * 1e9)
    return ReadableSpan(
        name=f"{method} {named}" if named else str(method),
        context=SpanContext(
            trace_id, int(trace.span_id, 16), is_remote=False, trace_flags=_SAMPLED
        ),
        parent=parent,
        resource=resource,
        attributes=attributes,
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR if "error.type" in attributes else StatusCode.UNSET),
        start_time=started_ns,
        end_time=started_ns + int(max(0.0, record.duration_ms) * 1e6),
        instrumentation_scope=_SCOPE,
    )


def _attributes(record: RequestRecord, version: str) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "mcp.method.name": neutral(record.method, 64),
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "user.id": record.user_id,
        "mcphub.request.id": record.id,
        "mcphub.outcome": record.outcome.value,
        "mcphub.decision": record.decision,
        "mcphub.era": record.era,
        "mcphub.request.bytes": record.bytes_in,
        "mcphub.response.bytes": record.bytes_out,
    }
    name = neutral(record.name, 128)
    if record.method == "tools/call":
        found["gen_ai.operation.name"] = "execute_tool"
    more = {
        "mcp.protocol.version": version,
        "gen_ai.tool.name": name if record.method == "tools/call" else "",
        "gen_ai.prompt.name": name if record.method == "prompts/get" else "",
        "mcphub.server": neutral(record.server, 63),
        "mcphub.instance.id": record.instance_id,
        "mcphub.client": neutral(record.client, 128),
        "rpc.response.status_code": "" if record.error_code is None else str(record.error_code),
        "error.type": _error_type(record),
    }
    return found | {key: value for key, value in more.items() if value}


def _error_type(record: RequestRecord) -> str:
    """`tool_error`, the code of the JSON-RPC error, or how else the call failed; "" when it did not."""
    if record.outcome is Outcome.OK:
        return ""
    if record.error_code is None or record.outcome is Outcome.TOOL_ERROR:
        return record.outcome.value
    return str(record.error_code)
