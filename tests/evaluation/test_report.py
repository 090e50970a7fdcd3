"""The table, the plots and the page."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from evaluation.datasets.folder import load_folder
from evaluation.datasets.pascal5i import load_pascal5i
from evaluation.judge import ANSWERS, NETWORK, Result, judge, lines_of
from evaluation.metrics import foreground_iou
from evaluation.network import Network
from evaluation.report import curves_of, report
from evaluation.showcase import choose
from evaluation.tables import markdown

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Refuses tags that are not closed in order; keeps what tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def results(network: Network, plain: Path) -> list[Result]:
    [subset] = load_folder(plain, examples=2)
    return [judge(network, subset, examples) for examples in (1, 2)]


def test_the_judge_asks_network_and_baselines_the_same(results: list[Result]):
    for result in results:
        assert tuple(result.counts) == ANSWERS
        for counts in result.counts.values():
            assert counts.shape == (7, 4)
            assert (counts.sum(axis=1) == 64 * 64).all()
        # Everything marked: nothing is missed, nothing rightly left.
        assert not result.counts["everything"][:, 2:].any()
    assert (results[0].counts[NETWORK] != results[1].counts[NETWORK]).any()


def test_judging_twice_gives_the_same(network: Network, results: list[Result]):
    again = judge(network, results[0].subset, 1)
    assert lines_of([again]) == lines_of(results[:1])


def test_ignored_pixels_do_not_count(network: Network, voc: Path):
    [subset] = load_pascal5i(voc, folds=[0], episodes=2)
    ignored = subset.episodes[0].question(1).ignored
    assert ignored is not None
    assert judge(network, subset).counts[NETWORK][0].sum() == 64 * 64 - ignored.sum()


def test_scores_by_category_are_those_of_the_mean(results: list[Result]):
    by_category = results[0].by_category(NETWORK)
    assert set(by_category) == {"cup", "leaf"}
    assert results[0].scores(NETWORK).miou.mean == pytest.approx(sum(by_category.values()) / 2)


def test_the_table_has_a_row_for_each_line_and_metric(results: list[Result]):
    rows = markdown(lines_of(results)).splitlines()
    assert len(rows) == 2 + 2 * 3
    assert len({row.count("|") for row in rows}) == 1
    for name in ANSWERS:
        assert f" {name} " in rows[0]
    assert rows[2].startswith("| things | 1 | 2 | 7 | mIoU | ")
    miou = results[0].scores(NETWORK).miou
    assert f" {miou.mean:.3f} ({miou.low:.3f} to {miou.high:.3f}) " in rows[2]


def test_the_table_says_what_more_examples_gain_question_by_question(results: list[Result]):
    rows = markdown(lines_of(results)).splitlines()
    assert rows[0].endswith(" network over 1 example |")
    assert rows[2].endswith(" 0.000 (0.000 to 0.000) |")
    one, two = (result.scores(NETWORK).miou for result in results)
    gain = two - one
    assert rows[5].startswith("| things | 2 | 2 | 7 | mIoU | ")
    assert rows[5].endswith(f" {gain.mean:.3f} ({gain.low:.3f} to {gain.high:.3f}) |")
    assert gain.mean == pytest.approx(two.mean - one.mean)
    assert "network over 1" not in markdown(lines_of(results[:1]))


def test_folds_have_a_mean(network: Network, voc: Path):
    lines = lines_of([judge(network, subset) for subset in load_pascal5i(voc, folds=range(4), episodes=5)])
    assert [line.name for line in lines][-1] == "mean of 4 folds"
    means = [line.scores[NETWORK].miou.mean for line in lines]
    assert means[-1] == pytest.approx(sum(means[:-1]) / 4)


def test_chosen_episodes_are_the_best_the_middle_and_the_worst(network: Network, results: list[Result]):
    ious = sorted(foreground_iou(results[0].counts[NETWORK]).tolist(), reverse=True)
    cases = choose(results[:1], network)
    assert [case.iou for case in cases["best"]] == ious[:2]
    assert [case.iou for case in cases["median"]] == ious[2:4]
    assert [case.iou for case in cases["worst"]] == ious[-2:]
    assert cases["best"][0].found.shape == cases["best"][0].question.area.shape


def test_plots_are_svg_with_their_numbers(results: list[Result]):
    lines = lines_of(results)
    [svg] = curves_of(lines, "miou").values()
    root = ElementTree.fromstring(svg)
    assert len(root.findall("{*}polyline")) == len(ANSWERS)
    assert len(root.findall("{*}circle")) == 2 * len(ANSWERS)
    shown = [text.text for text in root.findall("{*}text")]
    for name in ANSWERS:
        assert f"{name} {lines[1].scores[name].miou.mean:.3f}" in shown
    assert not curves_of(lines[:1], "miou")


def test_the_report_is_one_valid_page_with_all_figures(network: Network, results: list[Result]):
    lines = lines_of(results)
    facts = {"checkpoint": "<tiny> & 'small'", "seed": "0"}
    text = report("How well it does", facts, results, lines, choose(results[:1], network))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "<tiny> & 'small'" in page.text
    assert "script" not in page.seen
    for line in lines:
        for scores in line.scores.values():
            for estimate in (scores.miou, scores.fb_iou, scores.pair_iou):
                assert f"{estimate.mean:.3f}{estimate.low:.3f} to {estimate.high:.3f}" in page.text
    for heading in ("Scores", "Over the number of examples", "By category", "best", "median", "fails"):
        assert heading in page.text


def test_the_report_needs_nothing_beside_it(network: Network, results: list[Result]):
    page = Page(report("it", {}, results, lines_of(results), choose(results[:1], network)))
    assert len(page.sources) == 6 * 4  # example, input, wanted and found of two of each kind
    for source in page.sources:
        kind, content = source.split(",", 1)
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert image.size == (360, 360)
    text = report("it", {}, results, lines_of(results), {})
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text)
