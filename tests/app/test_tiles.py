"""Pictures cut into tiles, and the tiles' answers as one."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import InvalidRequest, TooManyTiles
from app.tiles import AUTO_TILES, LEAST_SIDE, Blend, Tile, TilePlan, TileSize, parse_tile, plan

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
SIZES = st.tuples(st.integers(1, 9000), st.integers(1, 9000))
TILES = st.one_of(st.just("auto"), st.tuples(st.integers(LEAST_SIDE, 3000), st.integers(LEAST_SIDE, 3000)))
LARGE_CELLS = st.sampled_from([(96, 96), (448, 448), (448, 320)])
SMALL_CELLS = st.tuples(st.integers(1, 20), st.integers(1, 20))


@st.composite
def plans(draw: st.DrawFn, cells: st.SearchStrategy[tuple[int, int]] = LARGE_CELLS) -> TilePlan:
    """Plans of every kind; sizes that need too many tiles become larger ones."""
    size, cell, tile = draw(SIZES), draw(cells), draw(TILES)
    while True:
        try:
            return plan(size, cell, tile, 400)
        except TooManyTiles:
            assert tile != "auto"
            tile = tile[0] * 2, tile[1] * 2


@st.composite
def small_plans(draw: st.DrawFn) -> TilePlan:
    """At most 5 x 5 tiles, of small and odd cells."""
    size = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    sides = tuple(max(LEAST_SIDE, -(-side // draw(st.integers(1, 4)))) for side in size)
    return plan(size, draw(SMALL_CELLS), (sides[0], sides[1]), 64)


def noise(cut: TilePlan, seed: int = 0) -> list[Pixels]:
    """An answer of nothing but noise for each tile."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*cut.cell, 4), dtype=np.uint8) for _ in cut.tiles]


def blended(cut: TilePlan, answers: list[Pixels], order: list[int] | None = None) -> Pixels:
    blend = Blend(cut)
    for index in order or range(len(answers)):
        blend.add(cut.tiles[index], answers[index])
    return blend.result()


def edges(cut: TilePlan, axis: int) -> list[tuple[float, float]]:
    """Beginning and end of each row (axis 0) or column (axis 1) of boxes."""
    if axis == 0:
        return [(tile.box[1], tile.box[3]) for tile in cut.tiles if tile.column == 0]
    return [(tile.box[0], tile.box[2]) for tile in cut.tiles if tile.row == 0]


@given(plans())
@settings(max_examples=200, deadline=None)
def test_the_boxes_cover_the_picture_from_edge_to_edge(cut: TilePlan) -> None:
    for axis in (0, 1):
        boxes = edges(cut, axis)
        assert boxes[0][0] == 0
        assert boxes[-1][1] == cut.size[axis]  # exactly: Pillow refuses a box that leaves the picture
        assert boxes == sorted(boxes)
        assert all(after[0] < before[1] for before, after in itertools.pairwise(boxes))


@given(plans())
@settings(max_examples=200, deadline=None)
def test_boxes_have_the_canvas_scale_and_lie_where_their_answers_do(cut: TilePlan) -> None:
    scale = [side / canvas for side, canvas in zip(cut.size, cut.canvas, strict=True)]
    for tile in cut.tiles:
        left, top, right, bottom = tile.box
        assert (top, left) == pytest.approx([place * by for place, by in zip(tile.place, scale, strict=True)])
        assert (bottom - top, right - left) == pytest.approx(
            [side * by for side, by in zip(cut.cell, scale, strict=True)]
        )
    last = cut.tiles[-1].place
    assert cut.canvas == (last[0] + cut.cell[0], last[1] + cut.cell[1])


@given(plans())
@settings(max_examples=200, deadline=None)
def test_neighbours_overlap_by_a_quarter(cut: TilePlan) -> None:
    for axis in (0, 1):
        assert cut.overlap[axis] == cut.cell[axis] // 4
        boxes = edges(cut, axis)
        share = cut.overlap[axis] / cut.cell[axis]
        for before, after in itertools.pairwise(boxes):
            assert (before[1] - after[0]) / (before[1] - before[0]) == pytest.approx(share)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_tiles_come_row_by_row_and_make_a_grid(cut: TilePlan) -> None:
    rows, columns = cut.grid
    assert [(tile.row, tile.column) for tile in cut.tiles] == list(itertools.product(range(rows), range(columns)))


@given(SIZES, LARGE_CELLS, st.tuples(st.integers(LEAST_SIDE, 3000), st.integers(LEAST_SIDE, 3000)))
@settings(max_examples=200, deadline=None)
def test_explicit_tiles_show_no_more_than_asked_and_are_as_few_as_that_allows(
    size: tuple[int, int], cell: tuple[int, int], tile: tuple[int, int]
) -> None:
    try:
        cut = plan(size, cell, tile, 4096)
    except TooManyTiles:
        return
    for axis in (0, 1):
        count, stride = cut.grid[axis], cell[axis] - cell[axis] // 4
        shown = cell[axis] * size[axis] / cut.canvas[axis]
        if size[axis] <= tile[axis]:
            assert count == 1
        else:
            assert shown <= tile[axis] + 1e-9
            one_fewer = cut.canvas[axis] - stride
            assert count > 1
            assert cell[axis] * size[axis] / one_fewer > tile[axis]


@given(SIZES, LARGE_CELLS, st.integers(1, 500))
@settings(max_examples=200, deadline=None)
def test_auto_is_native_or_just_within_the_limit(size: tuple[int, int], cell: tuple[int, int], limit: int) -> None:
    cut = plan(size, cell, "auto", limit)
    allowed = min(limit, AUTO_TILES)
    assert len(cut.tiles) <= allowed
    native = len_of(size, cell, cell)
    if native <= allowed:
        assert len(cut.tiles) == native
        # No pixel of the picture is lost.
        assert all(canvas >= side for canvas, side in zip(cut.canvas, size, strict=True))
    else:
        # Tiles that are only one step smaller are too many.
        height = max(one.box[3] - one.box[1] for one in cut.tiles)
        width = max(one.box[2] - one.box[0] for one in cut.tiles)
        factor = max(height / cell[0], width / cell[1])
        smaller = int(cell[0] * factor) - 2, int(cell[1] * factor) - 2
        assert len_of(size, cell, smaller) > allowed


def len_of(size: tuple[int, int], cell: tuple[int, int], tile: tuple[int, int]) -> int:
    """Tiles that `tile` needs, however many."""
    try:
        return len(plan(size, cell, tile, 4096).tiles)
    except TooManyTiles as problem:
        got = problem.extra["got"]
        assert isinstance(got, int)
        return got


@pytest.mark.parametrize("size", [(1, 1), (96, 96), (50, 96), (96, 17)])
def test_a_picture_no_larger_than_the_cell_stays_whole(size: tuple[int, int]) -> None:
    (tile,) = plan(size, (96, 96), "auto", 256).tiles
    assert tile == Tile(0, 0, (0, 0, size[1], size[0]), (0, 0))


def test_a_tile_that_is_larger_than_the_picture_in_one_direction_is_one_there() -> None:
    cut = plan((400, 3000), (96, 96), (5000, 500), 256)
    assert cut.grid[0] == 1
    assert cut.grid[1] > 1
    assert cut.canvas[0] == 96


def test_a_photo_of_24_megapixels_is_seen_natively_at_448_pixels() -> None:
    cut = plan((4000, 6000), (448, 448), "auto", 256)
    assert cut.grid == (12, 18)
    assert cut.canvas == (336 * 11 + 448, 336 * 17 + 448)
    assert all(canvas >= side for canvas, side in zip(cut.canvas, cut.size, strict=True))


def test_too_many_tiles_say_how_many_and_what_is_allowed() -> None:
    with pytest.raises(TooManyTiles, match=r"83x56 = 4648 tiles of 96x96 .* 6000x4000; allowed are 256") as caught:
        plan((4000, 6000), (96, 96), (96, 96), 256)
    assert caught.value.extra == {"field": "tile", "got": 4648, "limit": 256}


def test_a_hopeless_number_of_tiles_is_refused_before_any_is_made() -> None:
    with pytest.raises(TooManyTiles) as caught:
        plan((10**9, 10**9), (448, 448), (16, 16), 4096)
    assert int(str(caught.value.extra["got"])) > 10**15


@pytest.mark.parametrize("tile", [(15, 100), (100, 15), (0, 0), (-5, 400)])
def test_tiles_of_a_few_pixels_are_refused(tile: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match="at least 16"):
        plan((4000, 6000), (96, 96), tile, 256)


@pytest.mark.parametrize(
    ("text", "tile"), [("auto", "auto"), ("640x480", (480, 640)), ("16x16", (16, 16)), ("16384x99", (99, 16384))]
)
def test_a_tile_is_auto_or_width_by_height(text: str, tile: TileSize) -> None:
    assert parse_tile(text) == tile


@pytest.mark.parametrize(
    "text",
    ["", "AUTO", "640", "640x", "x480", "640x480x3", "-640x480", "6.4x480", "640*480", " 640x480", "640x480\n",
     "\u0661\u0662\u0663x\u0661\u0662\u0663", "1e3x500", "9" * 5000 + "x500", "15x16", "16x15", "0x0"],
)  # fmt: skip
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="allowed") as caught:
        parse_tile(text)
    assert caught.value.extra["field"] == "tile"
    assert len(caught.value.detail) < 250


@given(small_plans(), st.tuples(*[st.integers(0, 255)] * 4))
@settings(max_examples=100, deadline=None)
def test_a_colour_that_all_tiles_show_stays_that_colour(cut: TilePlan, colour: tuple[int, ...]) -> None:
    answers = [np.full((*cut.cell, 4), colour, np.uint8)] * len(cut.tiles)
    result = blended(cut, answers)
    assert result.shape == (*cut.canvas, 4)
    assert result.dtype == np.uint8
    assert (result == np.array(colour)).all()


@given(SMALL_CELLS, st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_one_tile_keeps_its_own_pixels(cell: tuple[int, int], seed: int) -> None:
    cut = plan((16, 16), cell, (16, 16), 1)
    (answer,) = noise(cut, seed)
    np.testing.assert_array_equal(blended(cut, [answer]), answer)


@given(small_plans(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_tiles_does_not_matter(cut: TilePlan, random: Any) -> None:
    answers = noise(cut)
    order = list(range(len(answers)))
    random.shuffle(order)
    np.testing.assert_array_equal(blended(cut, answers, order), blended(cut, answers))


@given(small_plans())
@settings(max_examples=100, deadline=None)
def test_what_only_one_tile_shows_is_that_tiles_own(cut: TilePlan) -> None:
    answers = noise(cut)
    result = blended(cut, answers)
    shown = np.zeros(cut.canvas, int)
    for tile in cut.tiles:
        top, left = tile.place
        shown[top : top + cut.cell[0], left : left + cut.cell[1]] += 1
    for tile, answer in zip(cut.tiles, answers, strict=True):
        place = np.s_[tile.place[0] : tile.place[0] + cut.cell[0], tile.place[1] : tile.place[1] + cut.cell[1]]
        alone = shown[place] == 1
        np.testing.assert_array_equal(result[place][alone], answer[alone])


@given(small_plans())
@settings(max_examples=60, deadline=None)
def test_overlaps_are_the_means_under_linear_ramps(cut: TilePlan) -> None:
    answers = noise(cut)
    sums, weights = np.zeros((*cut.canvas, 4)), np.zeros((*cut.canvas, 1))
    for tile, answer in zip(cut.tiles, answers, strict=True):
        place = np.s_[tile.place[0] : tile.place[0] + cut.cell[0], tile.place[1] : tile.place[1] + cut.cell[1]]
        ramps = []
        for axis, position in enumerate((tile.row, tile.column)):
            steps = (np.arange(cut.cell[axis]) + 0.5) / (cut.overlap[axis] or 0.5)
            before = steps if position > 0 else np.inf
            after = steps[::-1] if position < cut.grid[axis] - 1 else np.inf
            ramps.append(np.minimum(np.minimum(before, after), np.ones(cut.cell[axis])))
        weight = np.outer(*ramps)[:, :, None]
        sums[place] += answer * weight
        weights[place] += weight
    np.testing.assert_allclose(weights, 1)
    # The blend's weights are whole 256ths: half a level off at most in each direction, and another half by rounding.
    assert np.abs(blended(cut, answers) - sums).max() <= 1.5


@pytest.mark.parametrize("tile", ["auto", (400, 400), (301, 977)])
@pytest.mark.parametrize("size", [(1000, 1500), (777, 95)])
def test_tiles_of_a_smooth_picture_blend_to_the_picture_made_small(size: tuple[int, int], tile: TileSize) -> None:
    y, x = np.mgrid[: size[0], : size[1]]
    channels = [
        127 + 120 * np.sin(x / 400 + y / 300),
        255 * x / size[1],
        255 * y / size[0],
        127 + 120 * np.cos(x / 350),
    ]
    image = Image.fromarray(np.rint(np.stack(channels, axis=2)).astype(np.uint8), "RGBA")
    cut = plan(size, (96, 96), tile, 256)
    assert len(cut.tiles) > 1

    def seen(size: tuple[int, int], box: tuple[float, float, float, float] | None = None) -> Pixels:
        # Channel by channel: Pillow would multiply RGB by what it takes for transparency.
        bands = [band.resize((size[1], size[0]), Image.Resampling.BICUBIC, box=box) for band in image.split()]
        return np.stack([np.asarray(band) for band in bands], axis=2)

    result = blended(cut, [seen(cut.cell, one.box) for one in cut.tiles])
    assert np.abs(result.astype(int) - seen(cut.canvas)).max() <= 1


def test_a_step_between_two_tiles_becomes_a_ramp() -> None:
    cut = plan((96, 168), (96, 96), "auto", 256)
    dark, light = (np.full((96, 96, 4), value, np.uint8) for value in (0, 240))
    row = blended(cut, [dark, light])[50, :, 0].astype(int)
    assert (row[:72] == 0).all()
    assert (row[96:] == 240).all()
    np.testing.assert_array_equal(row[72:96], 10 * np.arange(24) + 5)


def test_only_rows_of_tiles_that_are_not_finished_are_kept_wide() -> None:
    cut = plan((2000, 300), (96, 96), (100, 100), 256)
    blend = Blend(cut)
    answer = np.full((96, 96, 4), 7, np.uint8)
    widest = 0
    for tile in cut.tiles:
        blend.add(tile, answer)
        widest = max(widest, sum(sums.nbytes for sums in blend._sums.values()))
    assert cut.grid[0] > 20
    assert widest <= 2 * 96 * cut.canvas[1] * 4 * 4
    assert not blend._sums


def test_an_answer_before_all_tiles_have_come_is_our_own_mistake() -> None:
    cut = plan((200, 200), (96, 96), "auto", 256)
    blend = Blend(cut)
    answers = noise(cut)
    for tile, answer in zip(cut.tiles[:-1], answers, strict=False):
        blend.add(tile, answer)
    assert blend.added == len(cut.tiles) - 1
    with pytest.raises(AssertionError, match="8 of 9 tiles"):
        blend.result()
    with pytest.raises(AssertionError, match="came twice"):
        blend.add(cut.tiles[0], answers[0])
    with pytest.raises(AssertionError, match="cells of"):
        blend.add(cut.tiles[-1], answers[-1][:-1])
    blend.add(cut.tiles[-1], answers[-1])
    assert blend.result().shape == (*cut.canvas, 4)
