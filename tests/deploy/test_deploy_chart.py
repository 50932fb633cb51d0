"""The Helm chart: what Helm makes of it, what Kubernetes' schemas and our own configuration say."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.conftest import CHART, Objects, of_kind
from diptych import __version__
from diptych.config import load
from support import REPOSITORY, missing

EVERYTHING: dict[str, Any] = {
    "databaseSecret": "database",
    "tlsSecret": "tls",
    "gpu": {"enabled": True},
    "service": {"type": "NodePort", "nodePort": 31112},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "dicomFrom": [{"ipBlock": {"cidr": "192.0.2.0/24"}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}], "ports": [{"port": 5432}]}],
    },
}
OF_THE_OPERATOR = {"ServiceMonitor", "PrometheusRule"}
Rendered = Callable[..., Objects]


def _container(objects: Objects) -> dict[str, Any]:
    pod = of_kind(objects, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
@pytest.mark.parametrize("version", ["1.25", "1.33"])
def test_kubernetes_knows_every_field(
    rendered: Rendered, values: dict[str, Any], version: str
) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        missing("kubernetes-validate (make setup)")
    objects = rendered(**values)
    kinds = {one["kind"] for one in objects}
    assert {"StatefulSet", "Service", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    assert (kinds >= OF_THE_OPERATOR) == bool(values)
    for one in objects:
        if one["kind"] not in OF_THE_OPERATOR:
            kubernetes_validate.validate(one, version, strict=True)


def test_the_daemon_reads_the_configuration_that_the_chart_writes(
    rendered: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Helm's numbers are floating-point ones.
    config = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["config"]
    config["spool"] = {"min_free_bytes": 5 * 2**30, "keep_days": "forever"}
    objects = rendered(**EVERYTHING | {"config": config})
    written = of_kind(objects, "ConfigMap")["data"]["diptych.toml"]
    assert tomllib.loads(written).keys() == config.keys()
    (tmp_path / "diptych.toml").write_text(written, "utf-8")
    for variable in _container(objects)["env"]:
        secret = "postgresql+pg8000://diptych:secret@database/diptych"
        monkeypatch.setenv(variable["name"], variable.get("value", secret))
    loaded = load(tmp_path / "diptych.toml")
    assert loaded.dicom.port == 11112
    assert loaded.dicom.is_open
    assert loaded.spool.min_free_bytes == 5 * 2**30
    assert loaded.source[0].name == "router"
    assert loaded.dicom.tls_key == Path("/etc/diptych-tls/tls.key")


def test_files_that_the_environment_names_are_mounted(rendered: Rendered) -> None:
    container = _container(rendered(**EVERYTHING))
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    named = [v["value"] for v in container["env"] if v.get("value", "").startswith("/")]
    named += [one for one in container["args"] if one.startswith("/")]
    assert len(named) == 5
    for path in named:
        assert path in folders or str(Path(path).parent) in folders, path


def test_the_pod_has_no_rights_and_a_read_only_root(rendered: Rendered) -> None:
    objects = rendered()
    pod = of_kind(objects, "StatefulSet")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    context = _container(objects)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    # Two daemons must never share a data folder.
    assert of_kind(objects, "StatefulSet")["spec"]["replicas"] == 1


def test_probes_ask_what_the_daemon_answers(rendered: Rendered) -> None:
    container = _container(rendered())
    asked = {
        name: container[f"{name}Probe"]["httpGet"]["path"]
        for name in ("startup", "liveness", "readiness")
    }
    assert asked == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "dicom": 11112,
        "http": 8112,
    }


def test_the_rules_of_the_chart_are_those_of_prometheus(rendered: Rendered) -> None:
    rules = REPOSITORY / "deploy" / "prometheus" / "diptych.rules.yml"
    found = of_kind(rendered(monitoring={"enabled": True}), "PrometheusRule")["spec"]
    assert found == yaml.safe_load(rules.read_text("utf-8"))


def test_the_monitor_selects_the_pages_and_only_them(rendered: Rendered) -> None:
    objects = rendered(monitoring={"enabled": True})
    wanted = of_kind(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    selected = [
        one["metadata"]["name"]
        for one in objects
        if one["kind"] == "Service" and wanted <= one["metadata"]["labels"].items()
    ]
    assert selected == ["site-diptych-metrics"]


def test_the_addresses_of_senders_are_kept(rendered: Rendered) -> None:
    services = [one for one in rendered(**EVERYTHING) if one["kind"] == "Service"]
    (dicom,) = [s for s in services if s["spec"]["ports"][0]["name"] == "dicom"]
    assert dicom["spec"]["externalTrafficPolicy"] == "Local"


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 2},
        {"persistence": {"size": "much"}},
        {"config": {"source": []}},
        {"config": {"dicom": {"port": 0}}},
        {"config": {"database": {"url": "postgresql://in-clear"}}},
        {"config": {"http": {"token_file": "/somewhere"}}},
        {"service": {"type": "Loadbalancer"}},
        {"metricsTokenSecret": ""},
    ],
    ids=str,
)
def test_impossible_values_are_refused(rendered: Rendered, values: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"(?i)schema|additional|got|must|not"):
        rendered(**values)


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["version"] == chart["appVersion"] == __version__
