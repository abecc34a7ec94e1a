"""Counters as Prometheus reads them; nothing that a client chooses becomes a label."""

from mcphub.gateway.metrics import Metrics


def test_calls_are_counted_by_server_method_and_outcome_and_their_durations_add_up():
    metrics = Metrics()
    metrics.of("github", "tools/call").ended("ok", 0.004)
    metrics.of("github", "tools/call").ended("ok", 100.0)
    metrics.of("github", "tools/call").ended("error", 0.004)
    text = metrics.text({"mcphub_sessions": 3})
    assert 'mcphub_calls_total{server="github",method="tools/call",outcome="ok"} 2' in text
    assert 'mcphub_calls_total{server="github",method="tools/call",outcome="error"} 1' in text
    assert 'mcphub_call_seconds_bucket{server="github",le="0.0025"} 0' in text
    assert 'mcphub_call_seconds_bucket{server="github",le="0.005"} 2' in text
    assert 'mcphub_call_seconds_bucket{server="github",le="60.0"} 2' in text
    assert 'mcphub_call_seconds_bucket{server="github",le="+Inf"} 3' in text
    assert 'mcphub_call_seconds_count{server="github"} 3' in text
    assert "# TYPE mcphub_sessions gauge\nmcphub_sessions 3\n" in text


def test_a_method_that_a_client_made_up_is_no_label():
    metrics = Metrics()
    metrics.of("", 'x",evil="y').ended("error", 0.1)
    assert "evil" not in metrics.text({}) and 'method="other"' in metrics.text({})
