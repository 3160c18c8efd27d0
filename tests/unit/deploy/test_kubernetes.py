"""The manifests of deploy/kubernetes: valid, safe by default, and of the same processes and settings as compose."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from esper import __version__
from esper.cli.app import app
from esper.weatherlight.supervisor import SERVICES
from streams.keys import load_key_ring
from streams.settings import Settings

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
KUBERNETES_VERSION = "1.32"
ROTATING = {"ESPER_KEY_PREVIOUS", "ESPER_KEYS_RETIRED"}
ADDRESSES = ("--kafka-addr", "--advertise-kafka-addr", "--rpc-addr", "--advertise-rpc-addr", "--seeds", "--set")

needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl, which builds the overlays, is not here"
)
needs_schemas = pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="kubernetes-validate is not installed: it has 108 MB of schemas, and comes with the extra dev",
)


@cache
def built(overlay: str) -> tuple[dict[str, Any], ...]:
    """Everything that an overlay comes to."""
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return tuple(yaml.safe_load_all(made.stdout))


@cache
def written() -> tuple[dict[str, Any], ...]:
    """What stands in the files of the base and of the log, before any overlay."""
    files = [*(KUBERNETES / "base").glob("*.yaml"), KUBERNETES / "redpanda" / "redpanda.yaml"]
    found = [each for path in sorted(files) for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return tuple(each for each in found if each["kind"] != "Kustomization")


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]


def pods(objects: tuple[dict[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """The spec of the pods of each that makes some, by its name."""
    specs = [(each["metadata"]["name"], each.get("spec", {})) for each in objects]
    inner = [(name, spec.get("jobTemplate", {}).get("spec", spec)) for name, spec in specs]
    return {name: spec["template"]["spec"] for name, spec in inner if "template" in spec}


def sidecar() -> dict[str, Any]:
    """Prometheus as it is put beside Esper."""
    patch = yaml.safe_load((KUBERNETES / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    return patch[0]["value"]


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, each) for name, pod in pods(written()).items() for each in pod["containers"])
    yield "prometheus", sidecar()


def settings(overlay: str) -> dict[str, str]:
    (found,) = [each["data"] for each in built(overlay) if each["kind"] == "ConfigMap"]
    return found


@needs_kubectl
@needs_schemas
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_object_of_an_overlay(overlay):
    import kubernetes_validate

    for each in built(overlay):
        kubernetes_validate.validate(each, KUBERNETES_VERSION, strict=True)


def test_each_container_is_held_to_little():
    for name, pod in pods(written()).items():
        held = pod["securityContext"]

        assert held["runAsNonRoot"], name
        assert held["runAsUser"] > 0, name
        assert held["fsGroupChangePolicy"] == "OnRootMismatch", name  # else a file that only its owner reads is opened
        assert held["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
    for name, each in containers():
        held = each["securityContext"]

        assert held["allowPrivilegeEscalation"] is False, name
        assert held["capabilities"] == {"drop": ["ALL"]}, name
        assert held.get("readOnlyRootFilesystem") or name == "redpanda", name  # rpk writes its configuration beside it
        assert set(each["resources"]["requests"]) == {"cpu", "memory"}, name
        assert "memory" in each["resources"]["limits"], name


def test_each_container_but_a_jobs_is_asked_how_it_is():
    asked = {name: {"readinessProbe", "livenessProbe"} <= set(each) for name, each in containers()}

    assert asked.pop("run") is False
    assert [name for name, is_asked in asked.items() if not is_asked] == []


def test_a_log_that_is_away_starts_nothing_anew_and_makes_nothing_ready():
    probes = [each for name, each in containers() if each.get("image") == "esper" and name != "run"]
    for each in probes:
        assert each["readinessProbe"]["exec"]["command"] == ["python", "-m", "streams.healthcheck"]
        assert each["livenessProbe"]["exec"]["command"] == ["python", "-m", "streams.healthcheck", "--alive"]

    assert len(probes) == 4
    assert '"python", "-m", "streams.healthcheck"]' in (DEPLOY / "Dockerfile").read_text("utf-8")


def test_every_command_is_one_that_there_is():
    known = typer.main.get_command(app)
    for name, each in containers():
        if each.get("image") != "esper":
            continue
        program, *words = each["command"]
        if program == "python":
            assert words == ["-m", f"streams.{name}"], name
            assert importlib.util.find_spec(words[1]), name
            assert words[1] in {module.removesuffix(".__main__") for module in SERVICES.values()}
            continue
        context = typer.Context(known)
        command = known.get_command(context, words[0])

        assert program == "esper"
        assert command is not None
        command.make_context(words[0], words[1:])  # raises on an option that there is not


def test_the_processes_are_those_of_compose():
    """The one pod that keeps the archive runs what compose's service runs: the image's own command."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    (pod,) = pods(written())["esper"]["containers"]

    assert "command" not in compose()["esper"]
    assert pod["command"] == yaml.safe_load(command)


def test_the_image_is_this_version_and_its_user_the_pods():
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (image,) = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text("utf-8"))["images"]
    users = {pod["securityContext"]["runAsUser"] for name, pod in pods(written()).items() if name != "redpanda"}

    assert image == {"name": "esper", "newTag": __version__}
    assert users == {1000}
    assert "--uid 1000" in dockerfile
    assert "\nUSER 1000\n" in dockerfile
    assert "\nSTOPSIGNAL SIGINT\n" in dockerfile  # what Kubernetes ends a container with, as docker does


def test_the_others_are_those_of_compose_image_and_command():
    log, prometheus = compose()["redpanda"], compose()["prometheus"]
    (broker,) = pods(written())["redpanda"]["containers"]

    assert (broker["image"], sidecar()["image"]) == (log["image"], prometheus["image"])
    assert sidecar()["args"] == prometheus["command"]
    assert [word for word in broker["args"] if not word.startswith(ADDRESSES)] == [
        word for word in log["command"] if not word.startswith(ADDRESSES)
    ]


def test_prometheus_reads_the_files_that_compose_gives_it():
    mounted = {place.split(":")[1] for place in compose()["prometheus"]["volumes"] if place.startswith("./")}
    line = re.search(r"kubectl .*configmap esper-prometheus (.*)", (KUBERNETES / "README.md").read_text("utf-8"))
    given = re.findall(r"--from-file=(\S+)", line[1])

    assert {f"/etc/prometheus/{Path(path).name}" for path in given} == mounted
    assert [path for path in given if not (DEPLOY.parent / path).exists()] == []


def secrets_of_the_readme() -> dict[str, set[str]]:
    """The secrets that the page has one make, and the variables in each."""
    page = (KUBERNETES / "README.md").read_text(encoding="utf-8")
    made: dict[str, set[str]] = defaultdict(set)
    for name, line in re.findall(r"secret generic (\S+) (.*)", page):
        made[name] |= set(re.findall(r"--from-literal=([A-Z_]+)=", line))
    return made


def test_no_secret_stands_in_a_file_and_each_that_is_read_is_one_that_the_page_makes():
    read = {
        source["secretRef"]["name"]: source["secretRef"].get("optional", False)
        for _, each in containers()
        for source in each.get("envFrom", ())
        if "secretRef" in source
    }
    told = {variable for overlay in (written(),) for each in overlay for variable in each.get("data", {})}

    assert set(secrets_of_the_readme()) == set(read)
    assert [name for name, optional in read.items() if not optional] == ["esper-keys"]
    assert told & Settings.secrets() == set()
    assert [each["kind"] for each in written() if each["kind"] == "Secret"] == []


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlays_settings_load_with_the_secrets_of_the_page(overlay, monkeypatch):
    """So neither a name nor a value is one that a process would refuse at its start."""
    told, made = settings(overlay), secrets_of_the_readme()
    variables = {f"ESPER_{name.upper()}" for name in Settings.model_fields}
    away = {"esper-log"} if overlay != "own-log" else set()
    given = {name for secret, names in made.items() if secret not in away for name in names} - ROTATING
    for name in variables:
        monkeypatch.delenv(name, raising=False)
    for name in given:
        monkeypatch.setenv(name, {"ESPER_KEY": "ab" * 32}.get(name, "given"))
    for name, value in told.items():
        monkeypatch.setenv(name, value)

    assert Settings.load().brokers == told["ESPER_BROKERS"]
    assert {name for name in set(told).union(*made.values()) if name.startswith("ESPER_")} <= variables
    assert set(compose()["esper"]["environment"]) <= set(told).union(*made.values())


def test_what_compose_gives_with_a_key_and_nothing_else_loads(monkeypatch):
    """Variables that nobody set arrive as empty ones."""
    monkeypatch.setenv("ESPER_KEY", "ab" * 32)
    for name, value in compose()["esper"]["environment"].items():
        shown = re.sub(r"\$\{(\w+):[-?][^}]*\}", lambda found: os.environ.get(found[1], ""), value)
        monkeypatch.setenv(name, shown)

    settings = Settings.load()

    assert load_key_ring(settings).retired == {}
    assert settings.brokers == "redpanda:9092"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_a_pod_mounts_is_there_and_esper_is_its_first_container(overlay):
    claims = {each["metadata"]["name"] for each in built(overlay) if each["kind"] == "PersistentVolumeClaim"}
    for each in built(overlay):
        for name, pod in pods((each,)).items():
            own = {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
            volumes = own | {volume["name"] for volume in pod.get("volumes", ())}
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            claimed = {
                volume["persistentVolumeClaim"]["claimName"]
                for volume in pod.get("volumes", ())
                if "persistentVolumeClaim" in volume
            }

            assert mounted == volumes, name
            assert claimed <= claims
            assert pod["containers"][0]["name"] == name
            objects = settings(overlay)["ESPER_OBJECTS_URL"]
            places = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
            assert name == "redpanda" or "://" in objects or objects in places


@needs_kubectl
def test_three_brokers_know_each_other_and_esper_knows_them():
    (cluster,) = [
        each
        for each in built("three-brokers")
        if each["metadata"]["name"] == "redpanda" and each["kind"] == "StatefulSet"
    ]
    names = [f"redpanda-{number}.redpanda" for number in range(cluster["spec"]["replicas"])]
    (broker,) = pods((cluster,))["redpanda"]["containers"]

    assert f"--seeds={','.join(f'{name}:33145' for name in names)}" in broker["args"]
    assert settings("three-brokers")["ESPER_BROKERS"] == ",".join(f"{name}:9092" for name in names)
    assert len(names) == 3
