"""FSS-1000, PASCAL-5i, COCO-20i and plain folders, each read from its own layout."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from evaluation.datasets.coco20i import load_coco20i
from evaluation.datasets.folder import load_folder
from evaluation.datasets.fss1000 import load_fss1000
from evaluation.datasets.fss1000_categories import TEST_CATEGORIES
from evaluation.datasets.labelled import DataError, Episode
from evaluation.datasets.pascal5i import CLASSES, load_pascal5i
from evaluation.questions import Subset
from tests.evaluation import trees


def names(subset: Subset) -> list[tuple[str, list[str]]]:
    """(input, examples) by file name."""
    return [(one.input.image.name, [example.image.name for example in one.examples]) for one in episodes(subset)]


def episodes(subset: Subset) -> list[Episode]:
    assert all(isinstance(one, Episode) for one in subset.episodes)
    return list(subset.episodes)  # type: ignore[arg-type]


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    area = np.zeros((trees.SIDE, trees.SIDE), bool)
    area[top:bottom, left:right] = True
    return area


# Every set.


@pytest.fixture(params=["fss1000", "pascal5i", "coco20i", "folder"])
def load(request: pytest.FixtureRequest, plain: Path, tmp_path: Path) -> Callable[..., list[Subset]]:
    """Loads a set with two examples per question (one of COCO's, which has two pictures per category)."""
    if request.param == "fss1000":
        root, split = trees.fss1000(tmp_path, ["cup", "leaf"], 4), tmp_path / "test.txt"
        split.write_text("cup\nleaf\n")
        return lambda **more: load_fss1000(root, split=split, **{"examples": 2, **more})
    if request.param == "pascal5i":
        root = request.getfixturevalue("voc")
        return lambda **more: load_pascal5i(root, folds=[0, 3], **{"examples": 2, "episodes": 40, **more})
    if request.param == "coco20i":
        root = request.getfixturevalue("coco")
        return lambda **more: load_coco20i(root, folds=[1], **{"episodes": 40, **more})
    return lambda **more: load_folder(plain, **{"examples": 2, **more})


def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(load):
    first = [names(subset) for subset in load(seed=3)]
    assert first == [names(subset) for subset in load(seed=3)]
    assert first != [names(subset) for subset in load(seed=4)]


def test_no_example_is_the_input_image_or_comes_twice(load):
    for subset in load():
        for episode in episodes(subset):
            files = [episode.input.image, *(example.image for example in episode.examples)]
            assert len(set(files)) == len(files)


def test_questions_hold_pictures_and_areas_of_their_sizes(load):
    for subset in load():
        asked = subset.episodes[0].question(1)
        assert asked.image.mode == "RGB"
        assert asked.image.size[::-1] == asked.area.shape
        assert asked.area.dtype == np.bool_
        assert len(asked.examples) == 1


def test_one_example_is_the_first_of_several(plain: Path, voc: Path):
    for load_some in (
        lambda count: load_folder(plain, examples=count),
        lambda count: load_pascal5i(voc, folds=[2], examples=count),
    ):
        one, two = (names(load_some(count)[0]) for count in (1, 2))
        assert one == [(asked, examples[:1]) for asked, examples in two]


def test_a_category_with_too_few_pictures_is_refused(load):
    with pytest.raises(DataError, match=r"has \d pictures; 9 example\(s\) and an input image need at least 10"):
        load(examples=9)


# FSS-1000.


def test_fss_asks_each_picture_of_each_test_category_once(fss: Path):
    [subset] = load_fss1000(fss)
    assert Counter(one.category for one in subset.episodes) == dict.fromkeys(TEST_CATEGORIES, 2)
    assert len({one.input.image for one in episodes(subset)}) == 480
    assert not subset.fixed_categories


def test_fss_is_found_where_it_lies_or_in_what_it_was_unpacked_in(fss: Path):
    outer, inner = (load_fss1000(root, episodes=10)[0] for root in (fss, fss / "fewshot_data"))
    assert names(outer) == names(inner)


def test_fss_masks_are_marked_from_128_on(tmp_path: Path):
    root = trees.fss1000(tmp_path, ["cup"], 2)
    values = np.array([[0, 127, 128, 255]], np.uint8)
    Image.fromarray(values).save(root / "fewshot_data" / "cup" / "1.png")
    Image.new("RGB", (4, 1)).save(root / "fewshot_data" / "cup" / "1.jpg")
    (tmp_path / "test.txt").write_bytes(b"cup\r\n")  # the published lists end their lines so
    [subset] = load_fss1000(root, split=tmp_path / "test.txt")
    [area] = [one.question(1).area for one in episodes(subset) if one.input.image.stem == "1"]
    assert area.tolist() == [[False, False, True, True]]


def test_fewer_episodes_are_spread_over_the_categories(fss: Path):
    [subset] = load_fss1000(fss, episodes=240)
    assert set(Counter(one.category for one in subset.episodes).values()) == {1}
    with pytest.raises(DataError, match=r"got --episodes 481; .* 1 to 480 are allowed"):
        load_fss1000(fss, episodes=481)


def test_fss_without_its_test_categories_is_refused(tmp_path: Path):
    root = trees.fss1000(tmp_path, ["bus"], 2)
    with pytest.raises(
        DataError, match=r"lacks 239 of 240 categories of the official test categories .* abe's_flyingfish"
    ):
        load_fss1000(root)
    with pytest.raises(DataError, match=r"there is no file .*split\.txt; a split has one category per line"):
        load_fss1000(root, split=tmp_path / "split.txt")
    with pytest.raises(DataError, match="there is no folder"):
        load_fss1000(tmp_path / "nowhere")


def test_fss_pictures_without_masks_are_refused(tmp_path: Path):
    root = trees.fss1000(tmp_path, ["cup"], 2)
    (tmp_path / "test.txt").write_text("cup\n")
    (root / "fewshot_data" / "cup" / "2.png").unlink()
    with pytest.raises(DataError, match=r"there is no .*2\.png"):
        load_fss1000(root, split=tmp_path / "test.txt")


# PASCAL-5i.


def test_pascal_folds_have_their_five_classes(voc: Path):
    subsets = load_pascal5i(voc, folds=range(4), episodes=15)
    assert [subset.name for subset in subsets] == [f"PASCAL-5i fold {fold}" for fold in range(4)]
    for fold, subset in enumerate(subsets):
        assert {one.category for one in subset.episodes} == set(CLASSES[5 * fold : 5 * fold + 5])
        assert subset.fixed_categories


def test_pascal_takes_its_inputs_in_order_a_thousand_times(voc: Path):
    [subset] = load_pascal5i(voc, folds=[1])
    inputs = [one.input.image.stem for one in episodes(subset)]
    assert len(inputs) == 1000
    assert inputs[:15] == [f"2007_{number:03d}{index:03d}" for number in range(6, 11) for index in range(3)]
    assert inputs[15:30] == inputs[:15]


def test_pascal_marks_the_class_and_ignores_255(voc: Path):
    [subset] = load_pascal5i(voc, folds=[0], episodes=1)
    asked = subset.episodes[0].question(1)
    assert asked.category == "aeroplane"
    assert np.array_equal(asked.area, box(*trees.LARGE))
    assert asked.ignored is not None
    assert np.array_equal(asked.ignored, box(6, 6, 58, 58) & ~box(*trees.LARGE) & ~box(*trees.SMALL))


def test_pascal_follows_a_list(voc: Path, tmp_path: Path):
    # The small thing in the first picture is of class 2.
    (tmp_path / "fold0.txt").write_text("2007_001000__02\n2007_002001__02\n")
    [subset] = load_pascal5i(voc / "VOC2012", folds=[0], lists=tmp_path, episodes=3)
    assert names(subset) == [
        ("2007_001000.jpg", ["2007_002001.jpg"]),
        ("2007_002001.jpg", ["2007_001000.jpg"]),
        ("2007_001000.jpg", ["2007_002001.jpg"]),
    ]
    assert np.array_equal(subset.episodes[0].question(1).area, box(*trees.SMALL))


@pytest.mark.parametrize("line", ["2007_001000", "2007_001000__07", "2007_001000__x"])
def test_lists_that_name_no_class_of_the_fold_are_refused(voc: Path, tmp_path: Path, line: str):
    (tmp_path / "fold0.txt").write_text(f"2007_001000__01\n{line}\n")
    with pytest.raises(DataError, match=rf"fold0\.txt, line 2 is '{line}'; .* one of 1, 2, 3, 4, 5"):
        load_pascal5i(voc, folds=[0], lists=tmp_path)


def test_a_tree_that_is_not_pascals_is_refused(tmp_path: Path, voc: Path):
    with pytest.raises(DataError, match=r"holds JPEGImages/<name>\.jpg and SegmentationClassAug"):
        load_pascal5i(tmp_path, folds=[0])
    shutil.copytree(voc / "VOC2012", tmp_path / "VOC2012")
    (tmp_path / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match=r"there is no .*val\.txt; without it give --lists"):
        load_pascal5i(tmp_path, folds=[0])
    with pytest.raises(DataError, match=r"there is no .*fold0\.txt"):
        load_pascal5i(tmp_path, folds=[0], lists=tmp_path)


# COCO-20i.


def test_coco_folds_take_every_fourth_category(coco: Path):
    for fold, subset in enumerate(load_coco20i(coco, folds=range(4), episodes=400)):
        wanted = {f"thing {number}" for number in trees.COCO_NUMBERS[fold::4]}
        assert {one.category for one in subset.episodes} == wanted
        assert subset.fixed_categories


def test_coco_draws_a_thousand_episodes_by_default(coco: Path):
    assert [len(one.episodes) for one in load_coco20i(coco, folds=[2])] == [1000]


def test_coco_areas_are_all_annotations_of_the_category_together(coco: Path):
    [subset] = load_coco20i(coco, folds=[0], episodes=5)
    for episode in subset.episodes:
        assert np.array_equal(episode.question(1).area, box(*trees.LARGE))


def test_coco_follows_a_list_with_masks_from_annotations_or_from_png_files(coco: Path, tmp_path: Path):
    root = tmp_path / "COCO2014"
    shutil.copytree(coco, root)
    stems = [f"COCO_val2014_{1000 + index:012d}" for index in range(2)]
    (tmp_path / "fold0.txt").write_text("".join(f"{stem}__01\n" for stem in stems))
    [subset] = load_coco20i(tmp_path, folds=[0], episodes=2, lists=tmp_path)
    assert {one.category for one in subset.episodes} == {"thing 1"}
    assert np.array_equal(subset.episodes[0].question(1).area, box(*trees.LARGE))

    (root / "annotations" / "val2014").mkdir()
    for stem in stems:
        Image.fromarray(box(*trees.SMALL).astype(np.uint8)).save(root / "annotations" / "val2014" / f"{stem}.png")
    (root / "annotations" / "instances_val2014.json").unlink()
    [subset] = load_coco20i(tmp_path, folds=[0], episodes=2, lists=tmp_path)
    assert np.array_equal(subset.episodes[0].question(1).area, box(*trees.SMALL))


def _spoilt(coco: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the tree to spoil, and its annotations."""
    root = tmp_path / "COCO2014"
    shutil.copytree(coco, root)
    return root, root / "annotations" / "instances_val2014.json"


def test_coco_pictures_that_will_be_asked_are_there_before_any_is(coco: Path, tmp_path: Path):
    root, _ = _spoilt(coco, tmp_path)
    gone = root / "val2014" / "COCO_val2014_000000001000.jpg"
    gone.unlink()
    with pytest.raises(DataError, match=rf"there is no {gone}"):
        load_coco20i(root, folds=[0])
    load_coco20i(root, folds=[1])


def test_coco_annotations_without_a_shape_cover_nothing(coco: Path, tmp_path: Path):
    root, file = _spoilt(coco, tmp_path)
    content = json.loads(file.read_bytes())
    number = trees.COCO_NUMBERS[0]
    for image, shape in ((1000, []), (1000, [[]]), (1159, [])):  # beside others, and alone
        content["annotations"].append({"image_id": image, "category_id": number, "iscrowd": 0, "segmentation": shape})
    file.write_text(json.dumps(content))
    [subset], [same] = (load_coco20i(one, folds=[0], episodes=40) for one in (root, coco))
    assert names(subset) == names(same)
    for ours, others in zip(subset.episodes, same.episodes, strict=True):
        assert np.array_equal(ours.question(1).area, others.question(1).area)


def test_a_tree_that_is_not_cocos_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"there is no folder .*val2014; COCO 2014 holds"):
        load_coco20i(tmp_path, folds=[0])
    (tmp_path / "val2014").mkdir()
    with pytest.raises(DataError, match=r"there is no .*instances_val2014\.json"):
        load_coco20i(tmp_path, folds=[0])
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val2014.json"
    file.write_text("{}")
    with pytest.raises(DataError, match="is no COCO annotation file: KeyError: 'annotations'"):
        load_coco20i(tmp_path, folds=[0])
    file.write_text(json.dumps({"annotations": [], "images": [], "categories": [{"id": 1, "name": "cup"}]}))
    with pytest.raises(DataError, match="has 1 categories; COCO-20i has 80"):
        load_coco20i(tmp_path, folds=[0])


# A plain folder.


def test_a_plain_folder_asks_each_picture_once(plain: Path):
    [subset] = load_folder(plain)
    assert subset.name == "things"
    assert sorted((one.category, one.input.image.stem) for one in episodes(subset)) == [
        *(("cup", str(index)) for index in range(4)),
        *(("leaf", str(index)) for index in range(3)),
    ]
    for episode in episodes(subset):
        assert episode.examples[0].image.parent == episode.input.image.parent


def test_pictures_of_all_kinds_are_read(plain: Path):
    for index, suffix in enumerate((".png", ".webp", ".jpeg")):
        old = plain / "cup" / "images" / f"{index}.jpg"
        Image.open(old).convert("RGBA" if suffix == ".png" else "RGB").save(old.with_suffix(suffix))
        old.unlink()
    [subset] = load_folder(plain)
    assert len(subset.episodes) == 7
    assert all(one.question(1).image.mode == "RGB" for one in subset.episodes)


def test_photos_that_say_how_they_were_held_are_turned(plain: Path):
    for path in (plain / "cup" / "images").iterdir():
        with Image.open(path) as image:
            wide, says = image.convert("RGB").resize((96, 64)), Image.Exif()
            Image.open(plain / "cup" / "masks" / f"{path.stem}.png").resize((96, 64)).save(
                plain / "cup" / "masks" / f"{path.stem}.png"
            )
        says[ExifTags.Base.Orientation] = 6  # to be shown turned clockwise
        wide.transpose(Image.Transpose.ROTATE_90).save(path, exif=says, quality=95)
        with Image.open(path) as stored:
            shown = ImageOps.exif_transpose(stored).convert("RGB")
    [subset] = load_folder(plain)
    asked = {one.input.image: one for one in episodes(subset)}[path].question(1)
    assert asked.image.size == (96, 64)
    assert asked.image.tobytes() == shown.tobytes()


def _lone_picture(category: Path) -> None:
    (category / "masks" / "0.png").unlink()


def _lone_mask(category: Path) -> None:
    (category / "images" / "0.jpg").unlink()


def _no_masks(category: Path) -> None:
    shutil.rmtree(category / "masks")


def _twice(category: Path) -> None:
    Image.new("RGB", (64, 64)).save(category / "images" / "0.png")


def _other_size(category: Path) -> None:
    Image.new("L", (32, 64), 255).save(category / "masks" / "0.png")


def _empty(category: Path) -> None:
    Image.new("L", (64, 64), 127).save(category / "masks" / "0.png")


def _no_picture(category: Path) -> None:
    (category / "images" / "0.jpg").write_bytes(b"hello")


BROKEN = {
    _lone_picture: r"masks has no 0, but its neighbour has",
    _lone_mask: r"images has no 0, but its neighbour has",
    _no_masks: r"cup has no folder masks; a folder of categories holds",
    _twice: r"images has 0 with several suffixes",
    _other_size: r"0\.png is 64 x 32 and .*0\.jpg is 64 x 64; a mask has its picture's height and width",
    _empty: r"0\.png marks nothing; each mask must mark at least one pixel",
    _no_picture: r"0\.jpg cannot be read as a picture",
}


@pytest.mark.parametrize("spoil", BROKEN, ids=lambda spoil: spoil.__name__)
def test_bad_plain_folders_are_refused(plain: Path, spoil: Callable[[Path], None]):
    spoil(plain / "cup")
    with pytest.raises(DataError, match=BROKEN[spoil]):
        load_folder(plain)


@pytest.mark.parametrize("spoil", [_other_size, _empty, _no_picture], ids=lambda spoil: spoil.__name__)
def test_unusable_pictures_are_left_out_when_asked(plain: Path, spoil: Callable[[Path], None], capsys):
    spoil(plain / "cup")
    [subset] = load_folder(plain, skip_unusable=True)
    assert len(subset.episodes) == 6
    assert re_left_out(capsys.readouterr().err) == 1


def re_left_out(text: str) -> int:
    return sum(line.startswith("left out: ") for line in text.splitlines())


def test_folders_without_categories_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="has no folders; a folder of categories holds"):
        load_folder(tmp_path)


def test_a_picture_that_is_damaged_inside_is_an_error_when_it_is_asked(plain: Path):
    file = plain / "cup" / "images" / "0.jpg"
    file.write_bytes(file.read_bytes()[:700])
    [subset] = load_folder(plain)
    [episode] = [one for one in episodes(subset) if one.input.image == file]
    with pytest.raises(DataError, match=r"0\.jpg is damaged"):
        episode.question(1)
