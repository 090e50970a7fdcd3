"""Metrics: one registry per object, stable names, documented."""

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import STAGES, Metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
LABELS = {
    "seggpt_requests_total": "`route`, `status`",
    "seggpt_stage_seconds": "`stage`",
    "seggpt_rejected_total": "`reason`",
    "seggpt_examples_total": "`result`",
    "seggpt_prompts_total": "`result`",
}


def name(family: Metric) -> str:
    return family.name + "_total" if family.type == "counter" else family.name


def row(family: Metric) -> str:
    """The metric's line in docs/metrics.md."""
    return f"| `{name(family)}` | {family.type} | {LABELS.get(name(family), '-')} | {family.documentation} |"


def test_the_names_are_stable() -> None:
    assert {name(family) for family in Metrics().registry.collect()} == {
        "seggpt_requests_total",
        "seggpt_request_seconds",
        "seggpt_stage_seconds",
        "seggpt_batch_pairs",
        "seggpt_batches_total",
        "seggpt_queue_pairs",
        "seggpt_running_pairs",
        "seggpt_queue_limit_pairs",
        "seggpt_workers_ready",
        "seggpt_worker_restarts_total",
        "seggpt_requeued_groups_total",
        "seggpt_rejected_total",
        "seggpt_bytes_in_flight",
        "seggpt_examples_total",
        "seggpt_prompts_total",
    }


def test_two_services_in_one_process_do_not_share_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.batches.inc()
    assert one.registry.get_sample_value("seggpt_batches_total") == 1
    assert other.registry.get_sample_value("seggpt_batches_total") == 0


def test_the_page_can_be_read_by_prometheus_and_has_what_was_counted() -> None:
    metrics = Metrics()
    metrics.requests.labels("/v1/segment", "200").inc()
    metrics.rejected.labels("queue-full").inc(2)
    metrics.batch_pairs.observe(3)
    metrics.stage_seconds.labels("forward").observe(0.05)
    page, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }
    assert samples["seggpt_requests_total", ("route", "/v1/segment"), ("status", "200")] == 1
    assert samples["seggpt_rejected_total", ("reason", "queue-full")] == 2
    assert samples["seggpt_batch_pairs_bucket", ("le", "2.0")] == 0
    assert samples["seggpt_batch_pairs_bucket", ("le", "4.0")] == 1
    assert samples["seggpt_stage_seconds_count", ("stage", "forward")] == 1


def test_every_stage_is_there_before_the_first_request() -> None:
    registry = Metrics().registry
    assert STAGES == ("decode", "preprocess", "queue", "forward", "postprocess", "encode")
    for stage in STAGES:
        assert registry.get_sample_value("seggpt_stage_seconds_count", {"stage": stage}) == 0


def test_batches_fall_into_the_buckets_that_are_warmed() -> None:
    metrics = Metrics()
    (family,) = [family for family in metrics.registry.collect() if family.name == "seggpt_batch_pairs"]
    bounds = [sample.labels["le"] for sample in family.samples if sample.name.endswith("_bucket")]
    assert bounds == ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "+Inf"]


def test_the_docs_list_every_metric_as_it_is() -> None:
    documented = [line for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert documented == [row(family) for family in Metrics().registry.collect()]
