"""The scene of the tiles' benchmark, and how masks of it are judged."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.tile_scene import FOUND_IOU, LEAST_AREA, SIDES, Scene, make, score
from benchmarks.tiles import forget_peak, peak_bytes, processes_of


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make((1000, 1400), 5, 8, seed=3)


def test_a_scene_has_as_many_objects_as_asked_for_of_the_size_that_is_told(scene: Scene) -> None:
    assert scene.image.size == (1400, 1000)
    assert scene.objects.shape == (1000, 1400)
    for number in range(1, 6):
        rows, columns = np.nonzero(scene.objects == number)
        sides = np.ptp(rows) + 1, np.ptp(columns) + 1
        # A disc that is turned stays inside a circle around its box; ears and rounding take the rest.
        assert 0.6 * SIDES[0] < min(sides)
        assert max(sides) < 1.2 * SIDES[1]
    assert scene.objects.max() == 5


def test_the_same_seed_makes_the_same_scene_and_another_one_does_not(scene: Scene) -> None:
    assert make((1000, 1400), 5, 8, seed=3).jpeg() == scene.jpeg()
    assert make((1000, 1400), 5, 8, seed=4).jpeg() != scene.jpeg()


def test_a_scenes_mask_shows_its_objects(scene: Scene) -> None:
    mask = np.asarray(Image.open(io.BytesIO(scene.mask_png())))
    np.testing.assert_array_equal(mask, np.where(scene.objects > 0, 255, 0))


def test_too_many_things_for_a_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit into 400x400"):
        make((400, 400), 5, 40, seed=0)


def test_the_other_shapes_lie_beside_the_objects(scene: Scene) -> None:
    assert scene.others.any()
    assert not (scene.others & (scene.objects > 0)).any()


def test_the_right_mask_finds_everything_and_an_empty_one_nothing(scene: Scene) -> None:
    right = score(scene.objects > 0, scene)
    assert (right.found, right.objects, right.on_others, right.on_ground, right.iou) == (5, 5, 0, 0, 1)
    empty = score(np.zeros_like(scene.others), scene)
    assert (empty.found, empty.objects, empty.on_others, empty.on_ground, empty.iou) == (0, 5, 0, 0, 0)


def test_marking_everything_finds_nothing(scene: Scene) -> None:
    everything = score(np.ones_like(scene.others), scene)
    assert (everything.found, everything.on_others, everything.on_ground) == (0, 0, 0)
    assert everything.iou < 0.1


def test_parts_are_judged_one_by_one() -> None:
    objects, others, mask = np.zeros((600, 600), np.uint8), np.zeros((600, 600), bool), np.zeros((600, 600), bool)
    objects[0:100, 0:100], objects[200:300, 200:300], objects[400:500, 0:100] = 1, 2, 3
    others[300:400, 500:600] = True
    mask[0:60, 0:100] = True  # 0.6 of the first
    mask[200:240, 200:300] = True  # 0.4 of the second
    mask[400:500, 0:200] = True  # all of the third and as much beside it: 0.5
    mask[350:390, 500:550] = True  # some of the other shape
    mask[500:550, 500:550] = True  # nothing
    mask[590:600, 300 : 300 + LEAST_AREA // 10 - 1] = True  # nothing, and too little to count
    got = score(mask, Scene(Image.new("RGB", (600, 600)), objects, others))
    assert FOUND_IOU == 0.5
    assert (got.found, got.objects, got.on_others, got.on_ground) == (2, 3, 1, 1)
    assert got.iou == pytest.approx((6000 + 4000 + 10000) / (30000 + 10000 + 2000 + 2500))


def test_a_peak_of_memory_begins_anew() -> None:
    own = os.getpid()
    ballast_bytes = 40_000_000
    # Not from the heap: it may have as much to spare, and keeps what is freed.
    with mmap.mmap(-1, ballast_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as ballast:
        ballast.write(bytes([1]) * ballast_bytes)
        high = peak_bytes(own)
    forget_peak(own)
    assert peak_bytes(own) <= high - ballast_bytes // 2


def test_a_servers_workers_are_what_it_started_in_whatever_session() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as child:
        found = processes_of(os.getpid())
        child.communicate(b"\n")
    assert found["http"] == (os.getpid(),)
    assert child.pid in found["workers"]
