"""`/health` and `/metrics` of a process: quick, truthful, on loopback only."""

from __future__ import annotations

import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.catalogue import BY_NAME
from streams.health import IN_HEALTH, HealthServer
from streams.metrics import Metrics


@pytest.fixture
def metrics():
    return Metrics()


@pytest.mark.requirement("R-OONA-23", "R-NIS-25")
def test_health_is_200_while_every_check_passes_and_503_with_the_reason_otherwise(metrics):
    trouble = None
    figures = {"queue_depth": lambda: 7.0}
    with HealthServer(
        "trainer", metrics, checks={"log": lambda: trouble, "disk": lambda: None}, figures=figures
    ) as server:
        url = f"http://127.0.0.1:{server.port}/health"
        well = httpx.get(url)
        trouble = "the log is silent for 9 s"
        ill = httpx.get(url)

    assert well.status_code == 200
    assert well.json()["status"] == "ok"
    assert well.json()["process"] == "trainer"
    assert well.json()["figures"] == {"queue_depth": 7.0}
    assert ill.status_code == 503
    assert ill.json()["checks"] == {"log": "the log is silent for 9 s", "disk": "ok"}


@pytest.mark.requirement("R-OONA-23", "R-NIS-25")
def test_health_shows_depth_breakers_lag_and_alerts_as_they_are_then(metrics):
    with HealthServer("worker", metrics, checks={}) as server:
        url = f"http://127.0.0.1:{server.port}/health"
        before = httpx.get(url).json()["figures"]
        metrics.set("esper_oona_queue_depth", 5, writer="trainer")
        metrics.set("esper_urza_breaker_state", 2.0)
        metrics.set("esper_archive_lag_seconds", 0.5)
        metrics.set("esper_nissa_alerts_active", 1.0, rule="log_down")
        metrics.set("esper_urza_library_versions", 3.0)  # is no matter of health
        after = httpx.get(url).json()["figures"]

    assert before == {}
    assert after == {
        "esper_oona_queue_depth trainer": 5.0,
        "esper_urza_breaker_state": 2.0,
        "esper_archive_lag_seconds": 0.5,
        "esper_nissa_alerts_active log_down": 1.0,
    }
    assert set(IN_HEALTH) >= {name for name in BY_NAME if name.endswith("_breaker_state")}
    assert set(IN_HEALTH) <= set(BY_NAME)


@pytest.mark.requirement("R-OONA-23")
@pytest.mark.serial
def test_health_answers_within_100_ms(metrics):
    with HealthServer("trainer", metrics, checks={}) as server, httpx.Client() as client:
        client.get(f"http://127.0.0.1:{server.port}/health")
        started = time.monotonic()
        client.get(f"http://127.0.0.1:{server.port}/health")

        assert time.monotonic() - started < 0.1


@pytest.mark.requirement("R-OONA-22")
def test_metrics_are_what_prometheus_reads_and_every_name_is_espers(metrics):
    metrics.count("esper_oona_publish_total", 3, topic="esper.runs")
    metrics.set("esper_oona_queue_depth", 5, writer="trainer")
    metrics.observe("esper_oona_publish_latency_seconds", 0.002)
    with HealthServer("trainer", metrics, checks={}) as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics")

    samples = {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert answer.headers["content-type"].startswith("text/plain")
    assert samples[("esper_oona_publish_total", (("topic", "esper.runs"),))] == 3
    assert samples[("esper_oona_queue_depth", (("writer", "trainer"),))] == 5
    assert samples[("esper_oona_publish_latency_seconds_bucket", (("le", "0.002"),))] == 1
    assert all(name.startswith("esper_") for name, _ in samples)
    assert ("esper_process_resident_memory_bytes", ()) in samples


def test_nobody_but_this_machine_reaches_it(metrics):
    with HealthServer("trainer", metrics, checks={}) as server:
        assert server._pages.socket.getsockname()[0] == "127.0.0.1"


def test_it_stops_and_gives_its_port_back(metrics):
    server = HealthServer("trainer", metrics, checks={})
    server.close()

    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{server.port}/health")


def test_a_metric_that_the_catalogue_lacks_cannot_be_emitted(metrics):
    with pytest.raises(KeyError):
        metrics.count("esper_something_new_total")


def test_a_forgotten_series_is_gone_and_the_others_stay(metrics):
    for run in ("a", "b"):
        metrics.set("esper_tolaria_training_loss", 1.0, run=run)

    metrics.forget("esper_tolaria_training_loss", "a")

    assert b'run="a"' not in metrics.render()
    assert b'run="b"' in metrics.render()


def test_it_may_be_closed_as_soon_as_it_was_made(metrics):
    for _ in range(50):
        with HealthServer("trainer", metrics, checks={}) as server:
            pass

        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{server.port}/health")
