"""The files of deploy/ parse, fit together, and name only what the code has (ruling 26)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import yaml

from contracts.topics import TOPICS
from esper.leyline.breaker import STATE_NAMES
from esper.nissa import dashboard
from esper.nissa.alerts import RULES
from esper.nissa.catalogue import BY_NAME, prometheus_form

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
NAME = re.compile(r"\besper_[a-z0-9_]+")
PARTS = ("_bucket", "_sum", "_count")


def load(name: str):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def rules() -> list[dict]:
    return [rule for group in load("alerts.yml")["groups"] for rule in group["rules"]]


def panels() -> list[dict]:
    return json.loads((DEPLOY / "grafana/dashboards/esper.json").read_text(encoding="utf-8"))["panels"]


def expressions() -> dict[str, str]:
    """Every PromQL expression of the rules and the dashboard, by where it stands."""
    drawn = {f"panel {panel['title']} {t['refId']}": t["expr"] for panel in panels() for t in panel["targets"]}
    return {f"alert {rule['alert']}": rule["expr"] for rule in rules()} | drawn


def metric(name: str) -> str:
    """The metric behind a series: a histogram shows itself as three."""
    stem = next((name.removesuffix(part) for part in PARTS if name.endswith(part)), name)
    return stem if stem in BY_NAME and BY_NAME[stem].kind == "histogram" else name


def emitted() -> set[str]:
    """The metrics that code sets by name, or publishes as a point of telemetry under the original's dotted name.

    The list of names and the rules about them emit nothing.
    """
    files = [path for room in ("streams", "esper") for path in (ROOT / room).rglob("*.py")]
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in files if path.name not in {"catalogue.py", "alerts.py"}
    )
    points = re.findall(r'"([a-z]+(?:\.[a-z_]+)+)"', code)
    return set(re.findall(r'"(esper_[a-z0-9_]+)"', code)) | {prometheus_form(point, 0.0)[0] for point in points}


@pytest.mark.requirement("R-OONA-24")
@pytest.mark.parametrize("where", expressions())
def test_an_expression_names_only_metrics_that_the_code_emits(where):
    names = {metric(name) for name in NAME.findall(expressions()[where])}

    assert names or expressions()[where].startswith("vector(")
    assert [name for name in names if name not in BY_NAME] == []
    assert names <= emitted()


def labelled() -> list[tuple[str, str]]:
    """Every expression with the text that shows its labels, such as a legend."""
    drawn = [(target["expr"], target["legendFormat"]) for panel in panels() for target in panel["targets"]]
    return [(rule["expr"], rule["annotations"]["summary"]) for rule in rules()] + drawn


@pytest.mark.parametrize(("expression", "shown"), labelled())
def test_a_legend_and_a_sum_use_only_labels_that_the_metric_has(expression, shown):
    grouped = {label for labels in re.findall(r"by \(([a-z_, ]+)\)", expression) for label in re.split(", *", labels)}
    used = grouped | set(re.findall(r"{{ *(?:\$labels\.)?([a-z]+) *}}", shown))
    known = {label for name in NAME.findall(expression) for label in BY_NAME[metric(name)].labels}

    assert used <= known | {"le", "process"}  # process is the scraped target's own label


@pytest.mark.requirement("R-OONA-24")
def test_every_alert_of_nissa_has_a_rule_on_the_same_measure():
    written = {rule["alert"]: rule["expr"] for rule in rules()}
    stems = {rule.name: rule.metric.removesuffix("_total") for rule in RULES}

    assert [name for name, stem in stems.items() if stem not in written.get(name, "")] == []


def test_every_rule_says_what_to_do():
    assert [rule["alert"] for rule in rules() if not rule["annotations"].get("action")] == []


@pytest.mark.requirement("R-NIS-27")
def test_the_dashboard_has_named_panels_that_do_not_overlap():
    """R-NIS-27."""
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()}

    assert len({panel["title"] for panel in panels()}) == len(panels()) == len(places) >= 6


def test_the_readme_lists_the_panels_that_the_dashboard_has():
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", readme.partition("| Panel | Process")[2], re.MULTILINE)
    processes = {name for _, named in listed for name in named.split(", ")}

    assert [title for title, _ in listed] == [panel["title"] for panel in panels()]
    assert processes <= {"worker", "decider", "trainer", "forge", "every process"}


def test_every_metric_has_a_panel_and_nothing_is_listed_that_no_code_emits():
    """By hand where people look first, and by the catalogue for the rest: those files are as the code makes them."""
    made = json.loads(dashboard.as_json())["panels"]
    drawn = {each["title"]: each["targets"][0]["expr"] for each in made if each["type"] != "row"}
    places = {(each["gridPos"]["x"], each["gridPos"]["y"]) for each in made}

    assert (DEPLOY / dashboard.FILE).read_text("utf-8") == dashboard.as_json(), "python -m esper.nissa.dashboard deploy"
    assert drawn.keys() == BY_NAME.keys()
    named_by_part = "esper_tolaria_epoch_hook_"
    assert {name for name in BY_NAME if not name.startswith(named_by_part)} <= emitted()
    assert [{metric(found) for found in NAME.findall(drawn[name])} for name in drawn] == [{name} for name in drawn]
    assert len(places) == len(made)


def test_a_panel_of_breakers_names_each_state_by_its_number():
    (panel,) = [panel for panel in panels() if any("breaker_state" in target["expr"] for target in panel["targets"])]
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]

    assert {int(number): shown["text"] for number, shown in mapping["options"].items()} == STATE_NAMES


def test_the_console_decodes_every_topic():
    mapped = {
        entry["topicName"]: entry["valueProtoType"] for entry in load("console.yaml")["kafka"]["protobuf"]["mappings"]
    }

    assert mapped == {topic.name: "esper.leyline.v1.Event" for topic in TOPICS}


def test_every_file_that_compose_mounts_is_there_and_every_port_is_local():
    services = load("compose.yaml")["services"]
    mounts = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    ports = [port for service in services.values() for port in service.get("ports", [])]

    assert set(services) == {"redpanda", "console", "esper", "prometheus", "grafana", "elasticsearch"}
    assert [name for name, service in services.items() if "profiles" in service] == ["elasticsearch"]
    assert [path for path in mounts if path.startswith(".") and not (DEPLOY / path).exists()] == []
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_log_of_compose_is_durable():
    """Redpanda's dev-container mode skips fsync and creates topics by itself, with other settings than ours."""
    command = load("compose.yaml")["services"]["redpanda"]["command"]

    assert command[:2] == ["redpanda", "start"]
    assert [flag for flag in command if "dev-container" in flag or "fsync" in flag] == []


def test_compose_refuses_to_start_without_a_key():
    assert load("compose.yaml")["services"]["esper"]["environment"]["ESPER_KEY"].startswith("${ESPER_KEY:?")


def test_the_image_holds_all_four_packages():
    copied = re.findall(r"^COPY (\w+) \1$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)

    assert copied == ["contracts", "esper", "projections", "streams"]


def test_the_image_has_what_torch_compiles_with():
    """Installed by root, before the image's own user is chosen."""
    written = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")

    assert re.search(r"apt-get install .*\bg\+\+", written.partition("\nUSER ")[0])


def test_the_prometheus_files_fit_together():
    configuration = load("prometheus.yml")
    mounted = load("compose.yaml")["services"]["prometheus"]["volumes"]

    assert configuration["rule_files"] == ["alerts.yml", "slo.yml"]
    for name in configuration["rule_files"]:
        assert any(f"./{name}:/etc/prometheus/{name}" in volume for volume in mounted)


def test_a_process_announces_itself_in_the_form_that_prometheus_reads(tmp_path):
    from streams.entry import announce

    said = io.StringIO()
    announce("decider", tmp_path / "run", 1234, said)

    assert json.loads(said.getvalue()) == {"ready": True, "health_port": 1234}

    assert load("prometheus.yml")["scrape_configs"][0]["file_sd_configs"][0]["files"] == ["/data/run/*.json"]
    assert json.loads((tmp_path / "run" / "decider.json").read_text(encoding="utf-8")) == [
        {"targets": ["127.0.0.1:1234"], "labels": {"process": "decider"}}
    ]


def test_a_trainer_is_scraped_while_it_runs(tmp_path):
    from streams.entry import scraped

    path = tmp_path / "trainer-a.json"
    with scraped(path, "trainer", 4321):
        assert json.loads(path.read_text(encoding="utf-8")) == [
            {"targets": ["127.0.0.1:4321"], "labels": {"process": "trainer"}}
        ]
    assert list(tmp_path.iterdir()) == []
