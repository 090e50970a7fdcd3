"""Prometheus metrics of one service: names, labels, buckets. An object, not globals: tests have many."""

from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

STAGES: Final = ("decode", "preprocess", "queue", "forward", "postprocess", "encode")
"""A request's straight line; the same six words stand in Server-Timing and in the logs."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PAIRS: Final = (1, 2, 4, 8, 16, 32)


class Metrics:
    """All metrics, in a registry of their own.

    Attributes are prometheus_client's objects, e.g. `metrics.requests.labels(route, "200").inc()`.
    Every stage's series exists from the start, so that a dashboard shows zeros, not gaps.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("seggpt_requests", "Answered requests.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "seggpt_request_seconds",
            "From a segmentation request's arrival to its answer.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.stage_seconds = Histogram(
            "seggpt_stage_seconds",
            "Time of one request in one stage.",
            ["stage"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.batch_pairs = Histogram(
            "seggpt_batch_pairs", "(image, example) pairs of one forward.", registry=registry, buckets=_PAIRS
        )
        self.batches = Counter("seggpt_batches", "Forwards that gave an answer.", registry=registry)
        self.queue_pairs = Gauge("seggpt_queue_pairs", "Pairs waiting for a worker.", registry=registry)
        self.running_pairs = Gauge("seggpt_running_pairs", "Pairs that workers hold now.", registry=registry)
        self.queue_limit_pairs = Gauge(
            "seggpt_queue_limit_pairs", "Pairs that may wait (SEGGPT_QUEUE_PAIRS).", registry=registry
        )
        self.workers_ready = Gauge("seggpt_workers_ready", "Workers that can answer.", registry=registry)
        self.worker_restarts = Counter(
            "seggpt_worker_restarts", "Workers started again after a death or a hang.", registry=registry
        )
        self.requeued_groups = Counter(
            "seggpt_requeued_groups", "Requests run again after their worker was lost.", registry=registry
        )
        self.rejected = Counter(
            "seggpt_rejected",
            "Requests, and images of batches, answered with a problem, by its slug.",
            ["reason"],
            registry=registry,
        )
        self.bytes_in_flight = Gauge(
            "seggpt_bytes_in_flight", "Bytes of all request bodies held now.", registry=registry
        )
        self.examples = Counter(
            "seggpt_examples",
            "Examples of requests, by whether their pixels were kept from an earlier one.",
            ["result"],
            registry=registry,
        )
        self.prompts = Counter(
            "seggpt_prompts",
            "Requests run, by whether the worker had kept their prompt's mask stream.",
            ["result"],
            registry=registry,
        )
        for result in ("hit", "miss"):
            self.examples.labels(result)
            self.prompts.labels(result)
        for stage in STAGES:
            self.stage_seconds.labels(stage)

    def render(self) -> tuple[bytes, str]:
        """The metrics page and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
