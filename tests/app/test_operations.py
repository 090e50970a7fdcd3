"""Health, models, metrics and the documentation page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.errors import PROBLEMS
from app.main import create_app
from app.routes.asking import FIELDS
from app.settings import Settings
from tests.app.conftest import RunningServer, form


@pytest.mark.parametrize("probe", ["live", "ready", "startup"])
def test_a_running_service_passes_every_probe(server: RunningServer, probe: str) -> None:
    answer = server.client.get(f"/health/{probe}")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


def test_models_says_what_is_loaded_and_where(server: RunningServer, tiny_folder: Path) -> None:
    (model,) = server.client.get("/v1/models").json()["models"]
    config = json.loads((tiny_folder / "config.json").read_text())
    assert model["checkpoint"] == str(tiny_folder)
    assert model["revision"] is None
    assert [model["canvas_size"]["height"], model["canvas_size"]["width"]] == config["image_size"]
    assert model["picture_size"] == {"height": 48, "width": 64}
    assert model["parameters"] > 10_000
    (worker,) = model["workers"]
    assert (worker["device"], worker["dtype"], worker["state"]) == ("cpu", "float32", "ready")
    assert worker["attention"]
    assert worker["linear"]
    assert worker["max_batch_pairs"] in {1, 2, 4, 8}  # what pays on this machine now


def test_metrics_are_well_formed_and_count_requests(server: RunningServer) -> None:
    def counted() -> float:
        families = text_string_to_metric_families(server.client.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "seggpt_requests_total" and sample.labels == {"route": "/v1/segment", "status": "200"}
        )

    before = counted()
    server.client.post("/v1/segment", files=form(20))
    assert counted() == before + 1
    assert server.metric("seggpt_workers_ready") == 1
    assert server.metric("seggpt_queue_pairs") == 0


def test_the_documentation_page_needs_nothing_from_outside(server: RunningServer) -> None:
    page = server.client.get("/docs").text
    assert "https://" not in page
    for script in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert server.client.get(f"/static-offline-docs/{script}").status_code == 200


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    return create_app(Settings()).openapi()


def test_every_field_of_a_request_has_a_description_and_an_example(openapi: dict[str, Any]) -> None:
    body = openapi["components"]["schemas"]["Body_segment"]
    assert set(body["properties"]) == FIELDS
    for name, field in body["properties"].items():
        assert field.get("description"), name
        assert field.get("examples") or field["items"].get("examples"), name


def test_the_documentation_page_offers_a_file_chooser_for_every_picture(openapi: dict[str, Any]) -> None:
    fields = openapi["components"]["schemas"]["Body_segment"]["properties"]
    assert fields["image"]["contentMediaType"] == "application/octet-stream"
    for name in ("prompt_image", "prompt_mask"):
        # Swagger's form shows text boxes for an array of files unless its items have the older word.
        assert fields[name]["items"]["format"] == "binary"


def test_every_answer_has_an_example(openapi: dict[str, Any]) -> None:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            assert operation["operationId"], path
            for status, answer in operation["responses"].items():
                for kind, content in answer.get("content", {}).items():  # 204 has none
                    schema = content.get("schema", {})
                    named = openapi["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
                    fields = named.get("properties", {}).values()
                    has_example = (
                        "example" in content
                        or "examples" in content
                        or named.get("examples")
                        or all("examples" in field or "$ref" in str(field) for field in fields or [{}])
                    )
                    assert has_example, (path, method, status, kind)


def test_every_problem_of_the_segment_route_is_declared(openapi: dict[str, Any]) -> None:
    responses = openapi["paths"]["/v1/segment"]["post"]["responses"]
    declared = {
        slug
        for answer in responses.values()
        for slug in answer["content"].get("application/problem+json", {}).get("examples", {})
    }
    assert declared == PROBLEMS.keys() - {"not-found", "method-not-allowed", "name-taken"}


def test_the_application_is_made_without_loading_anything() -> None:
    app = create_app(Settings(checkpoint="/nowhere"))
    assert app.state.service.models().models == []
