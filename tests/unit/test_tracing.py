"""Spans wait in a bounded buffer, and cost nothing where tracing is off."""

import subprocess
import sys
import threading

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from mcphub.audit import tracing
from mcphub.audit.records import RequestRecord
from mcphub.audit.tracing import Trace, Traces
from mcphub.settings import Tracing

RECORD = RequestRecord("r_1", 1.0, "u_1", "plain", "tools/call")
TRACE = Trace("1" * 32, "2" * 16)


def test_the_buffer_is_bounded_and_what_does_not_fit_is_counted() -> None:
    sent = []

    def export(spans):
        sent.append(len(spans))
        return ""

    traces = Traces(export, lambda: None, 0)
    for _ in range(tracing.KEPT + 3):
        traces.add(TRACE, RECORD, "")
    assert (traces.waiting, traces.dropped) == (tracing.KEPT, 3)
    traces.start()
    traces.close()
    assert (traces.waiting, traces.dropped, traces.exported) == (0, 3, tracing.KEPT)
    assert max(sent) == tracing.BATCH


def test_an_export_that_fails_in_an_unforeseen_way_does_not_end_tracing() -> None:
    failed = threading.Event()

    def export(spans):
        if failed.is_set():
            return ""
        failed.set()
        raise RuntimeError("of its own")

    traces = Traces(export, lambda: None, 0, flush_s=0.01)
    with capture_logs() as log:
        traces.add(TRACE, RECORD, "")
        traces.start()
        assert failed.wait(10)
        traces.add(TRACE, RECORD, "")
        traces.close()
    assert (traces.dropped, traces.exported) == (1, 1)
    assert [entry.get("reason") for entry in log] == ["RuntimeError", None]


def test_the_library_is_imported_only_where_tracing_is_on() -> None:
    code = "import sys, mcphub.app, mcphub.cli; sys.exit(any(n.startswith('opentelemetry') for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"endpoint": "localhost:4318"}, "http or https"),
        ({"endpoint": "https://user:secret@host"}, "no user and password"),
        ({"endpoint": "http://collector", "headers": {"a": "b"}}, "https or loopback"),
        ({"endpoint": "http://[::1", "headers": {}}, "endpoint"),
        ({"sample": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_of_tracing_that_cannot_be_meant_are_refused(given, told) -> None:
    with pytest.raises(ValidationError, match=told) as error:
        Tracing(**given)
    shown = str(error.value.errors(include_url=False, include_input=False)[0]["msg"])
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://host/", "https://host/v1/traces"),
        ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_that_of_traces(endpoint, url) -> None:
    assert Tracing(endpoint=endpoint).url == url
