"""Labels as users write them, and the network's colours for classes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from app.errors import InvalidLabels
from app.labels import BINARY, MOST_LABELS, MaskKind, palette, parse_labels
from model.colours import build_palette


@pytest.mark.parametrize("classes", [1, 2, 7, 8, 26, 27, 63, 64, 200])
def test_the_palette_is_the_models(classes: int) -> None:
    assert palette(classes).tolist() == [list(colour) for colour in build_palette(classes)]


def test_binary_masks_need_no_labels_and_take_one_name() -> None:
    assert parse_labels(None, "binary") == BINARY
    (label,) = parse_labels('["screw"]', "binary")
    assert (label.index, label.name, label.colour) == (1, "screw", (255, 255, 255))


def test_names_are_numbered_from_one() -> None:
    labels = parse_labels('["cat", " dog "]', "index")
    assert [(label.index, label.name) for label in labels] == [(1, "cat"), (2, "dog")]
    assert len({label.colour for label in labels}) == 2


def test_objects_choose_their_index_and_colour_and_are_sorted() -> None:
    text = json.dumps([{"name": "dog", "index": 9, "colour": "#00FF7f"}, {"name": "cat", "index": 3}])
    labels = parse_labels(text, "index")
    assert [(label.index, label.name) for label in labels] == [(3, "cat"), (9, "dog")]
    assert labels[1].colour == (0, 255, 127)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        (None, "index", "need `labels`"),
        (None, "colour", "need `labels`"),
        ("cat", "index", "JSON list"),
        ("{}", "index", "JSON list"),
        ("[]", "index", "JSON list"),
        ("[" * 5000, "index", "JSON list"),
        (json.dumps([f"n{number}" for number in range(MOST_LABELS + 1)]), "index", "JSON list"),
        ('["a", "b"]', "binary", "allowed is one"),
        ('["a", "a"]', "index", "two|2 labels with the name 'a'"),
        ('[{"name": "a", "index": 2}, "b"]', "index", "2 labels with the index 2"),
        ('[{"name": "a", "colour": "#ff0000"}, {"name": "b", "colour": "#FF0000"}]', "colour", "with the colour"),
        ('["a"]', "colour", "each label's colour"),
        ('[{"name": "a", "colour": "red"}]', "colour", "#rrggbb"),
        ('[{"name": "a", "colour": "#000000"}]', "colour", "black is the background"),
        ('[{"name": "a", "index": 0}]', "index", "1 to 255"),
        ('[{"name": "a", "index": 256}]', "index", "1 to 255"),
        ('[{"name": "a", "index": true}]', "index", "1 to 255"),
        ('[{"name": ""}]', "index", "1 to 100 printable"),
        ('[{"name": "a\\nb"}]', "index", "1 to 100 printable"),
        ('[{"nme": "a"}]', "index", "allowed is a name"),
        ("[7]", "index", "allowed is a name"),
    ],
)
def test_what_is_wrong_with_labels_is_said(text: str | None, kind: MaskKind, said: str) -> None:
    with pytest.raises(InvalidLabels, match=said):
        parse_labels(text, kind)


def test_the_palette_is_for_masks() -> None:
    assert palette(3).dtype == np.uint8
    assert palette(3)[0].tolist() == [0, 0, 0]


def test_labels_nested_as_deep_as_they_like_are_refused() -> None:
    for depth in range(1, 1200):  # somewhere on the way they can be read and not be shown
        with pytest.raises(InvalidLabels):
            parse_labels('[{"x": ' + "[" * depth + "]" * depth + "}]", "binary")
