"""Which class is where -> the bytes of an answer: the stage encode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from app.classes import ClassMap, only
from app.errors import InvalidRequest
from app.labels import Label, Labels
from app.masks import encode_colour, encode_index, encode_mask, encode_overlay, encode_soft
from app.overlays import encode_classes_overlay
from app.requests import Manner, Output
from app.segments import body, instance_map

_ANY_CLASS = 0.0  # as a threshold of class indices: all but the background's


def check_answerable(manner: Manner, labels: Sequence[Labels]) -> None:
    """Refuse what could not be answered, before anything is computed.

    Args:
        manner: how to answer.
        labels: the classes of each concept, as the answer has them.

    Raises:
        InvalidRequest: the label to show is none of them, or the output fits one class only.
    """
    every = [label for part in labels for label in part]
    _shown(manner, every)
    is_one = len(every) == 1 or manner.label is not None
    if manner.output == "soft" and not manner.as_json and not is_one:
        names = ", ".join(label.name for label in every)
        raise InvalidRequest(f"output=soft shows one class; choose it by label, which may be {names}"[:400])
    if manner.min_area and not manner.instances:
        raise InvalidRequest("min_area is about connected parts; it needs instances=true")
    if manner.instances and not manner.as_json and manner.output not in {None, "index"}:
        raise InvalidRequest(
            f"got output={manner.output} with instances=true; numbers of parts are shown by output=index or in JSON"
        )


def encode(
    classes: ClassMap,
    size: tuple[int, int],
    manner: Manner,
    picture: Callable[[], Image.Image],
    timings_ms: Mapping[str, float],
) -> bytes:
    """One answer.

    Args:
        classes: at the network's size, a canvas of tiles, or the input image's size.
        size: (height, width) of the input image.
        manner: what to show, and how.
        picture: gives the input image at its full size, mode "RGB".
        timings_ms: of the stages so far, for JSON.

    Returns:
        A PNG of the input image's size (an overlay of several classes has a legend below), or JSON.
    """
    is_only_one = len(classes.labels) == 1
    label = _shown(manner, classes.labels)
    if label is not None:
        classes = only(classes, label)
    if manner.as_json:
        answer = body(
            classes,
            size,
            instances=manner.instances,
            min_area=manner.min_area,
            tolerance=manner.tolerance,
            timings_ms=timings_ms,
        )
        return answer.model_dump_json().encode()
    if manner.instances:
        return encode_index(instance_map(classes, size, manner.min_area), size, None)
    is_one = len(classes.labels) == 1
    output: Output = manner.output or ("mask" if is_one else "index")
    if output == "overlay":
        if is_only_one:
            return encode_overlay(picture(), classes.index, _ANY_CLASS)
        return encode_classes_overlay(picture(), classes.index, classes.labels)
    encoders: dict[Output, Callable[[], bytes]] = {
        "mask": lambda: encode_mask(classes.index, size, _ANY_CLASS),
        "soft": lambda: encode_soft(classes.soft[classes.labels[0].index], size),
        "index": lambda: encode_index(classes.index, size, classes.labels),
        "colour": lambda: encode_colour(classes.index, size, classes.labels),
    }
    return encoders[output]()


def _shown(manner: Manner, labels: Sequence[Label]) -> Label | None:
    if manner.label is None:
        return None
    found = [label for label in labels if label.name == manner.label]
    if not found:
        names = ", ".join(label.name for label in labels)
        raise InvalidRequest(f"got label {manner.label!r:.80}; allowed are {names}"[:400])
    return found[0]
