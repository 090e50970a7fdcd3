"""The comparison on a CPU: contenders answer alike, children measure, tables say what was and was not measured."""

from __future__ import annotations

import pytest

from app.worker.channel import child_environment
from benchmarks.child import TUNED, in_child
from benchmarks.contenders import NEW_PROMPT, OURS, THEIRS, contender, question
from benchmarks.cpu import MALLOCS, goal_table, markdown, measurable, tables
from benchmarks.measure import difference
from benchmarks.plots import draw, latency, roofline, seconds
from benchmarks.report import this_machine
from model.checkpoint import BUNDLED
from model.config import SegGptConfig

BASE = "transformers float32"


def made_results() -> dict:
    """Results as a run stores them: ours twice as fast, and faster by the round."""
    systems = {
        name: {"seconds": [20.0, 10.0] if name in THEIRS else [10.0, 4.0], "relative_rms": 1e-6, "mask_iou": 1.0}
        for name in (*THEIRS, *OURS, *(name + NEW_PROMPT for name in OURS))
    }
    machine = this_machine("python -m benchmarks cpu").to_dict()
    return {malloc: {"machine": machine, "systems": systems} for malloc in MALLOCS}


def test_the_tuned_malloc_is_the_workers(monkeypatch):
    for name in TUNED:
        monkeypatch.delenv(name, raising=False)
    assert TUNED.items() <= child_environment().items()


def test_the_question_has_as_many_different_examples_as_asked_for():
    config = SegGptConfig.from_json_file(BUNDLED / "config.json")
    asked = question(config, examples=3)
    assert asked.pixel_values.shape == (1, 3, *config.half_size)
    assert asked.prompt_pixel_values.shape == asked.prompt_masks.shape == (3, 3, *config.half_size)
    assert not (asked.prompt_pixel_values[0] == asked.prompt_pixel_values[1]).all()
    assert (asked.prompt_pixel_values[:1] == question(config).prompt_pixel_values).all()


def test_every_contender_gives_the_answer_half_and_float32_ones_agree():
    asked = question(SegGptConfig.from_json_file(BUNDLED / "config.json"))
    truth = contender(BASE, BUNDLED)(asked)
    assert truth.shape == asked.pixel_values.shape[1:]
    for name in ("ours float32", "ours float32" + NEW_PROMPT):
        answer = contender(name, BUNDLED)
        for _ in range(2):  # the prompt is new to the first, known to the second
            assert difference(answer(asked), truth)["relative_rms"] <= 1e-5


def test_a_contender_that_is_none_is_refused_by_name():
    with pytest.raises(ValueError, match="'theirs float8' is no contender; there are ours float32"):
        contender("theirs float8", BUNDLED)


@pytest.mark.parametrize("malloc", MALLOCS)
def test_a_child_measures_time_and_error(malloc):
    found = in_child(malloc, "times", BASE, "ours float32", "--folder", str(BUNDLED), "--rounds", "2")
    assert list(found) == [BASE, "ours float32"]
    assert all(len(system["seconds"]) == len(system["faults"]) == 2 for system in found.values())
    assert found[BASE]["relative_rms"] == 0.0
    assert found["ours float32"]["relative_rms"] <= 1e-5


def test_a_child_measures_memory():
    found = in_child("default malloc", "memory", "ours float32", "--folder", str(BUNDLED))
    assert 0 < found["imported_bytes"] <= found["loaded_bytes"] <= found["peak_bytes"]


def test_a_child_that_fails_ends_the_measurement():
    with pytest.raises(SystemExit, match="a measurement failed"):
        in_child("default malloc", "times", "nobody", "--folder", str(BUNDLED))


def test_tables_show_ratios_of_rounds_and_say_what_was_not_measured():
    results = made_results()
    text = "\n".join(table.text() for table in tables(results))
    assert "2.25x" in text  # between 2 and 2.5, round by round
    assert "not measured" in text  # memory and ensembles
    rows = {row[0]: row for row in goal_table(results).rows}
    assert rows[f"float32 over {BASE}, tuned malloc"][1:] == [">= 2.2", "2.25", "yes"]
    assert rows[f"int8 over {BASE}, tuned malloc"][1:] == [">= 6", "2.25", "no"]
    assert rows["bfloat16, peak memory in GB"][1:] == ["<= 1.2", "not measured", ""]
    assert markdown(results).count("Measured 20") == 1  # one machine, one date, one command


def test_tables_of_nothing_say_so():
    assert all("not measured" in row[2] for row in goal_table({}).rows if "operations" not in row[0])
    assert "Measured" not in markdown({})


def test_plots_draw_every_system_and_mode(tmp_path, monkeypatch):
    points = [
        {"system": name, "offered_per_s": load, "p50_ms": 10, "p99_ms": 20, "answered_per_s": load, "refused": load > 1}
        for name in ("ours", "theirs")
        for load in (1, 2)
    ]
    parts = {"parts": {"mlp": 1.0, "rest": 0.5}, "watched_s": 1.5, "plain_s": 1.4}
    peaks = {"float32": 400.0, "int8": 1600.0, "memory": 40.0}
    results = {
        "profile": {"peaks": peaks, "modes": {"float32": parts, "int8": parts}},
        "cpu": made_results(),
        "service": {"load": points},
        "tuning": {
            "curves": {"1": [{"seconds": 0, "iou": 0.4}, {"seconds": 60, "iou": 0.6}]},
            "single": [0.3, 0.4],
            "ensembles": {"4": [0.4, 0.5]},
            "threads": 1,
        },
    }
    legend = latency(points).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["ours, p50", "ours, p99", "theirs, p50", "theirs, p99"]
    names = [label.get_text() for label in seconds(results["cpu"]).axes[0].get_yticklabels()]
    assert names == [*THEIRS, *OURS]
    written = {text.get_text() for text in roofline(results["profile"]).axes[0].texts}
    assert {"float32, 400", "int8, 1600", "mlp"} <= written
    assert "rest" not in written  # it has no operations to count
    monkeypatch.setattr("benchmarks.plots.stored", lambda name: results[name])
    first = {path.name: path.read_bytes() for path in draw(tmp_path)}
    assert sorted(first) == ["latency.svg", "roofline.svg", "seconds.svg", "tuning.svg"]
    assert {path.name: path.read_bytes() for path in draw(tmp_path)} == first  # equal results, equal files


def test_a_contender_that_would_take_minutes_is_left_out_where_bfloat16_is_emulated():
    assert measurable("bfloat16") == THEIRS
    assert measurable("float32") == ("transformers float32", "transformers int8")
