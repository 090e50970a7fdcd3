"""Classes of a mask: their names, how masks show them, and the colours in which the network is shown them.

Class 0 is the background and has no label. Sizes are (height, width).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidLabels

MaskKind = Literal["binary", "index", "colour"]
"""How a prompt mask shows classes: all that is not black is the one thing; pixel values are class indices; colours."""

PromptKind = Literal[MaskKind, "tuned"]
"""That of a registered prompt: also "tuned", learned colours of one thing, which the network takes as they are."""

Colour = tuple[int, int, int]
MOST_LABELS: Final = 64
_NAME_CHARACTERS: Final = 100
_HEX: Final = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class Label:
    """One class.

    Args:
        index: 1 to 255, what index masks and index answers say.
        name: what people call it.
        colour: RGB in [0, 255], in which colour masks show it and colour answers and overlays draw it.
    """

    index: int
    name: str
    colour: Colour


Labels = tuple[Label, ...]
"""By rising index; not empty."""

BINARY: Final[Labels] = (Label(1, "object", (255, 255, 255)),)
"""What a binary mask has."""


def palette(classes: int) -> NDArray[np.uint8]:
    """Colours that are far apart: (1 + classes, 3) uint8, the black background first.

    Equal to `model.colours.build_palette`, which this process cannot import because torch would come along.
    """
    base = int(classes ** (1 / 3)) + 1
    margin = 256 // base
    colours = [
        (255 - label // base**2 * margin, 255 - label % base**2 // base * margin, 255 - label % base * margin)
        for label in range(classes)
    ]
    return np.array([(0, 0, 0), *colours], np.uint8)


def parse_labels(text: str | None, kind: MaskKind) -> Labels:
    """Read the form field `labels`, which is JSON.

    Allowed are a list of names (indices 1, 2, and so on), or a list of objects {"name", "index", "colour": "#rrggbb"}.
    For index masks `index` counts and `colour` is only for drawing; for colour masks `colour` is needed and `index`
    follows the order when it is missing.

    Raises:
        InvalidLabels: it is something else, or binary masks have more than one label.
    """
    if text is None:
        if kind == "binary":
            return BINARY
        raise InvalidLabels(f'{kind} masks need `labels`, a JSON list such as ["cat", "dog"]')
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_LABELS:
        raise InvalidLabels(
            f"got labels {text[:80]!r}; allowed is a JSON list of 1 to {MOST_LABELS} names or objects "
            '{"name": "cat", "index": 1, "colour": "#ff0000"}'
        )
    if kind == "binary" and len(entries) > 1:
        raise InvalidLabels(f"got {len(entries)} labels for binary masks; allowed is one")
    drawn = BINARY[0].colour if len(entries) == 1 else None
    defaults = palette(len(entries))
    try:
        labels = [
            _label(entry, place, kind, drawn or _colour(defaults[place]))
            for place, entry in enumerate(entries, start=1)
        ]
    except RecursionError:  # what is wrong with it cannot be shown
        raise InvalidLabels("got labels that are nested too deep; allowed are names or flat objects") from None
    for what in ("index", "name", "colour"):
        for value, times in Counter(getattr(label, what) for label in labels).items():
            if times > 1:
                raise InvalidLabels(f"got {times} labels with the {what} {value!r}; each must have its own")
    return tuple(sorted(labels, key=lambda label: label.index))


def hexadecimal(colour: Colour) -> str:
    """(255, 0, 0) as "#ff0000"."""
    return "#" + bytes(colour).hex()


def _label(entry: Any, place: int, kind: MaskKind, drawn: Colour) -> Label:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict) or not entry.keys() <= {"name", "index", "colour"} or "name" not in entry:
        raise InvalidLabels(
            f'label {place}: got {json.dumps(entry)[:80]}; allowed is a name or {{"name", "index", "colour"}}'
        )
    name, index, colour = entry["name"], entry.get("index", place), entry.get("colour")
    if not isinstance(name, str) or not name.strip() or len(name) > _NAME_CHARACTERS or not name.isprintable():
        raise InvalidLabels(f"label {place}: a name has 1 to {_NAME_CHARACTERS} printable characters, got {name!r:.80}")
    if type(index) is not int or not 1 <= index <= 255:
        raise InvalidLabels(f"label {place}: an index is a whole number from 1 to 255, got {index!r:.80}")
    if colour is None and kind == "colour":
        raise InvalidLabels(f'label {place}: colour masks need each label\'s colour, such as "#ff0000"')
    if colour is not None and not (isinstance(colour, str) and _HEX.fullmatch(colour)):
        raise InvalidLabels(f'label {place}: a colour is "#rrggbb", got {colour!r:.80}')
    if colour is not None and kind == "colour" and colour[1:] == "000000":
        raise InvalidLabels(f"label {place}: black is the background of colour masks")
    shown = drawn if colour is None else _colour(np.frombuffer(bytes.fromhex(colour[1:]), np.uint8))
    return Label(index, name.strip(), shown)


def _colour(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = (int(value) for value in row)
    return red, green, blue
