"""The files of deploy/ agree with the service that they are for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from app.main import create_app
from app.settings import Settings

ROOT = Path(__file__).parents[1]
NGINX = (ROOT / "deploy" / "nginx.conf").read_text()
DEPLOYMENT, SERVICE = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
BYTES = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
SECONDS = {"s": 1, "h": 3600}
PATHS = set(create_app(Settings()).openapi()["paths"])


def _pod() -> dict[str, Any]:
    return DEPLOYMENT["spec"]["template"]["spec"]


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    return container


def _directives(name: str) -> list[str]:
    """Of nginx.conf, in their order: what stands behind the name."""
    return re.findall(rf"^\s*{name} ([^;]+);", NGINX, re.MULTILINE)


def _amount(text: str, units: dict[str, int]) -> int:
    return int(text[:-1]) * units[text[-1]]


def test_nginx_lets_through_what_the_service_takes():
    assert [_amount(size, BYTES) for size in _directives("client_max_body_size")] == [
        Settings().max_body_bytes,
        Settings().max_batch_bytes,
    ]


def test_nginx_waits_longer_than_the_service_takes():
    assert _amount(_directives("proxy_read_timeout")[0], SECONDS) > Settings().deadline_s


def test_nginx_knows_the_batch_route_by_its_path():
    exact = re.findall(r"location = (\S+) \{", NGINX)
    assert exact == ["/v1/segment/batch"]
    assert set(exact) < PATHS


def test_kubernetes_probes_are_routes_of_the_service():
    probes = {name: _container()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/health/startup", "readiness": "/health/ready", "liveness": "/health/live"}
    assert set(probes.values()) < PATHS


def test_kubernetes_sets_settings_that_there_are():
    names = {entry["name"] for entry in _container()["env"]}
    assert names <= {f"SEGGPT_{name.upper()}" for name in Settings.model_fields}
    assert not _pod()["enableServiceLinks"]


def test_kubernetes_waits_until_accepted_requests_are_answered():
    assert _pod()["terminationGracePeriodSeconds"] > Settings().drain_s


def test_kubernetes_runs_the_image_as_its_own_user_and_mounts_its_folders():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"--uid {_pod()['securityContext']['runAsUser']} " in dockerfile
    (volumes,) = re.findall(r"^VOLUME (.+)$", dockerfile, re.MULTILINE)
    assert {mount["mountPath"] for mount in _container()["volumeMounts"]} <= set(volumes.split())


def test_the_kubernetes_service_leads_to_the_pods_port():
    ports = {port["name"]: port["containerPort"] for port in _container()["ports"]}
    assert [ports[port["targetPort"]] for port in SERVICE["spec"]["ports"]] == [Settings().port]
    assert SERVICE["spec"]["selector"] == DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
