"""Probes, metrics and what is loaded: for orchestrators and people on call."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Response
from starlette.status import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from app.dependencies import ServiceOf
from app.schemas import Health, Models

router = APIRouter(tags=["operations"])

_UNAVAILABLE: Final[dict[int | str, dict[str, Any]]] = {
    HTTP_503_SERVICE_UNAVAILABLE: {
        "model": Health,
        "description": "Not (yet, or any more).",
        "content": {
            "application/json": {"example": {"status": "unavailable", "detail": "worker cpu is warming"}},
        },
    }
}
_METRICS_EXAMPLE: Final = (
    "# HELP seggpt_queue_pairs Pairs waiting for a worker.\n# TYPE seggpt_queue_pairs gauge\nseggpt_queue_pairs 3.0\n"
)


@router.get("/health/live", operation_id="live", summary="Is the process alive?")
async def live() -> Health:
    """Always 200 while the event loop turns; restart the process when it does not answer."""
    return Health(status="ok", detail="alive")


@router.get("/health/ready", operation_id="ready", summary="Send traffic?", responses=_UNAVAILABLE)
async def ready(service: ServiceOf, response: Response) -> Health:
    """200 when at least one worker can answer now; 503 while starting, while replacing a lost worker, and draining."""
    return _health(service.ready, service.condition, response)


@router.get("/health/startup", operation_id="startup", summary="Has it started?", responses=_UNAVAILABLE)
async def startup(service: ServiceOf, response: Response) -> Health:
    """200 from the first warm-up answer on; until then the checkpoint is being fetched, loaded or warmed up."""
    return _health(service.started, service.condition, response)


def _health(is_ok: bool, detail: str, response: Response) -> Health:
    response.status_code = HTTP_200_OK if is_ok else HTTP_503_SERVICE_UNAVAILABLE
    return Health(status="ok" if is_ok else "unavailable", detail=detail)


@router.get("/v1/models", operation_id="models", summary="What is loaded?")
async def models(service: ServiceOf) -> Models:
    """The checkpoint, its sizes, and the devices that it runs on."""
    return service.models()


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={
        HTTP_200_OK: {
            "description": "Prometheus' text format; docs/metrics.md lists the names.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS_EXAMPLE}},
        }
    },
)
async def metrics(service: ServiceOf) -> Response:
    """Counters, gauges and histograms of this process."""
    content, content_type = service.metrics.render()
    return Response(content, headers={"Content-Type": content_type})
