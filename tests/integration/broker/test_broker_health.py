"""What the broker says of itself, to people and to Prometheus."""

from __future__ import annotations

import json
import resource
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from esper.nissa.catalogue import BROKER


@pytest.fixture
def get(host, broker):
    (target,) = json.loads((host.data_dir / "run" / "broker.json").read_text())
    assert target["labels"] == {"process": "broker"}
    address = target["targets"][0]

    def get(path):
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.read().decode()

    get.address = address
    return get


def test_health(get, raw):
    page = json.loads(get("/health"))
    assert (page["process"], page["status"], page["checks"]) == ("broker", "ok", {"disk": "ok"})
    assert page["figures"] == {"connections": 1, "damaged_segments": 0}


def test_metrics_are_those_of_the_catalogue(get, raw, batch_of):
    """All of them, and no other."""
    raw.create("t")
    raw.produce("t", batch_of(b"a", b"b", producer=(1, 0, 0)))
    raw.produce("t", batch_of(b"a", b"b", producer=(1, 0, 0)))
    raw.fetch("t", 0)
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(get("/metrics"))
        for sample in family.samples
        if sample.name.startswith("esper_broker") and not sample.name.endswith("_created")
    }
    assert samples.keys() == {metric.name for metric in BROKER}
    assert samples["esper_broker_records_total"].value == 2
    assert samples["esper_broker_duplicates_total"].value == 1
    assert samples["esper_broker_log_end_offset"].value == 2
    assert samples["esper_broker_log_bytes"].labels == {"topic": "t", "partition": "0"}
    assert samples["esper_broker_sent_bytes_total"].value == samples["esper_broker_log_bytes"].value > 0


def test_a_full_disk_is_known_when_somebody_asks_though_nobody_writes(get, broker):
    def unwritable():
        return [line.split()[1] for line in get("/metrics").splitlines() if line.startswith("esper_broker_unwritable")]

    assert unwritable() == ["0.0"]
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (0, hard))
    assert unwritable() == ["1.0"]
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (soft, hard))
    assert unwritable() == ["0.0"]


def test_other_paths_are_404_and_nonsense_is_harmless(get, raw):
    with pytest.raises(urllib.error.HTTPError, match="404") as missing:
        get("/secrets")
    missing.value.close()
    host, _, port = get.address.partition(":")
    for nonsense in (b"\0" * 100, b"GET\r\n\r\n", b"x" * 100_000):
        with socket.create_connection((host, int(port)), timeout=5) as client:
            client.sendall(nonsense)
    assert json.loads(get("/health"))["status"] == "ok"
    assert raw.alive()
