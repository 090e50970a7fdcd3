"""What measurements have in common: spreads, tables, results on disk, blocks in documents."""

from __future__ import annotations

import json

import pytest

from benchmarks.document import BLOCKS, DOCUMENT, ELSEWHERE
from benchmarks.report import Machine, Spread, Table, ratios, store, stored, this_machine, write_block


def test_a_spread_says_its_median_and_its_ends():
    assert Spread((3.0, 1.0, 2.0)).text() == "2.00 (1.00 to 3.00)"
    assert Spread((1.5,)).text(1) == "1.5"


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == Spread((2.0, 3.0))
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0], [1.0, 2.0])


def test_a_table_is_aligned_as_text_and_marked_up_for_documents():
    table = Table(["system", "s"], [["ours", "1.5"], ["theirs", "12.0"]])
    assert table.text().splitlines() == ["system     s", "------  ----", "ours     1.5", "theirs  12.0"]
    assert table.markdown().splitlines() == ["| system | s |", "| --- | ---: |", "| ours | 1.5 |", "| theirs | 12.0 |"]


def test_results_come_back_from_disk(tmp_path):
    machine = this_machine("python -m benchmarks cpu")
    assert stored("cpu", tmp_path / "results") == {}
    store("cpu", {"machine": machine.to_dict()}, tmp_path / "results")
    assert Machine(**stored("cpu", tmp_path / "results")["machine"]) == machine
    assert json.loads((tmp_path / "results" / "cpu.json").read_text())["machine"]["cores"] == machine.cores
    assert machine.line().endswith("`python -m benchmarks cpu`")


def test_a_block_is_replaced_and_the_rest_of_a_document_stays(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- begin cpu -->\nold\n\\1 old\n<!-- end cpu -->\nafter\n")
    for content in ("new \\1", "newer"):
        write_block(document, "cpu", content)
        assert document.read_text() == f"before\n<!-- begin cpu -->\n{content}\n<!-- end cpu -->\nafter\n"


@pytest.mark.parametrize("text", ["", "<!-- begin cpu -->\n", 2 * "<!-- begin cpu -->\n<!-- end cpu -->\n"])
def test_a_document_without_that_one_block_is_refused(tmp_path, text):
    document = tmp_path / "a.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="blocks named 'cpu'; it must have one"):
        write_block(document, "cpu", "new")
    assert document.read_text() == text


def test_the_performance_document_has_a_block_for_every_result():
    for name in BLOCKS:
        text = DOCUMENT.with_name(ELSEWHERE.get(name, DOCUMENT.name)).read_text()
        assert text.count(f"<!-- begin {name} -->\n") == text.count(f"<!-- end {name} -->") == 1, name
