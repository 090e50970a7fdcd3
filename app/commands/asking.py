"""The words of a command line that say what to look for and how to answer, as options of the client."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from app.client import Client, Prompt, SegmentOptions

_PLAIN: Final = (
    "mask_kind",
    "embedding_type",
    "ensemble",
    "threshold",
    "label",
    "min_area",
    "tolerance",
    "tile",
    "upsampling",
)


def add_example_arguments(parser: argparse._ActionsContainer) -> None:
    """Examples and what their masks show."""
    parser.add_argument(
        "--prompt-image", action="append", default=[], metavar="FILE", help="shows the thing; may be repeated"
    )
    parser.add_argument(
        "--prompt-mask", action="append", default=[], metavar="FILE", help="marks it, one for each --prompt-image"
    )
    parser.add_argument("--mask-kind", choices=["binary", "index", "colour"], help="how masks show classes")
    parser.add_argument(
        "--labels", type=labels, metavar="NAMES", help="the masks' classes: cat,dog or the JSON of docs/api.md"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of it."""
    what = parser.add_argument_group("what to look for", "examples or registered prompts, or both")
    what.add_argument("--prompt", action="append", default=[], metavar="ID", help="id or name; may be repeated")
    add_example_arguments(what)
    what.add_argument(
        "--embedding-type", choices=["instance", "semantic"], help="this one thing, or everything of its kind"
    )
    what.add_argument("--ensemble", choices=["feature", "spatial"], help="how several examples become one answer")
    how = parser.add_argument_group("how to answer", "left out: the service's defaults, see docs/api.md")
    how.add_argument("--threshold", type=float, metavar="T", help="0 to 1; lower finds more")
    how.add_argument("--label", metavar="NAME", help="show this class only")
    how.add_argument("--instances", action="store_true", default=None, help="part classes into connected objects")
    how.add_argument("--min-area", type=int, metavar="PIXELS", help="least size of an object")
    how.add_argument("--tolerance", type=float, metavar="PIXELS", help="of polygons")
    how.add_argument("--tile", metavar="auto|WxH", help="look at large pictures piece by piece")
    how.add_argument(
        "--upsampling", choices=["nearest", "bilinear"], help="the network's pixels as they are, or smooth edges"
    )


def check_examples(options: argparse.Namespace) -> None:
    """Refuse examples that are no pairs.

    Raises:
        ValueError: they are none.
    """
    if len(options.prompt_image) != len(options.prompt_mask):
        raise ValueError(
            f"got {len(options.prompt_image)} --prompt-image and {len(options.prompt_mask)} --prompt-mask; "
            "each image needs its mask"
        )


def examples(options: argparse.Namespace) -> list[tuple[bytes, bytes]]:
    """The pairs, read.

    Raises:
        OSError: a file cannot be.
    """
    pairs = zip(options.prompt_image, options.prompt_mask, strict=True)
    return [(Path(image).read_bytes(), Path(mask).read_bytes()) for image, mask in pairs]


def segment_options(options: argparse.Namespace, client: Client) -> SegmentOptions:
    """For the client; names of prompts become ids, so that a renamed prompt is told from another of that name.

    Raises:
        OSError: a file cannot be read.
        SegGptError: there is no such prompt.
        ValueError: no prompt can have such a name.
    """
    asked: SegmentOptions = {}
    if options.prompt_image:
        asked["examples"] = examples(options)
    if options.prompt:
        asked["prompt"] = [client.prompts.get(name).id for name in options.prompt]
    if options.labels is not None:
        asked["labels"] = options.labels
    if options.instances:
        asked["instances"] = True
    asked.update({name: getattr(options, name) for name in _PLAIN if getattr(options, name) is not None})  # type: ignore[typeddict-item]
    return asked


def default_output(asked: SegmentOptions, client: Client) -> Literal["mask", "index"]:
    """What a request for one picture is answered with: a mask of one class, else class or object numbers.

    Raises:
        SegGptError: there is no such prompt.
    """
    prompts = asked.get("prompt", ())
    assert not isinstance(prompts, str | Prompt)
    classes = sum(len(client.prompts.get(one).labels) for one in prompts)
    if "examples" in asked:
        classes += len(asked.get("labels", ("object",)))
    is_one = classes == 1 or "label" in asked
    return "mask" if is_one and not asked.get("instances") else "index"


def question(asked: SegmentOptions) -> Mapping[str, Any]:
    """The options as JSON has them: pictures as hashes."""
    hashes = [[hashlib.sha256(file).hexdigest() for file in pair] for pair in _files(asked)]
    return {**asked, "examples": hashes}


def labels(text: str) -> Sequence[str | Mapping[str, Any]]:
    """ "cat,dog", or JSON.

    Raises:
        ValueError: it looks like JSON and is none.
    """
    if text.lstrip().startswith("["):
        read: list[str | Mapping[str, Any]] = json.loads(text)
        return read
    return [name.strip() for name in text.split(",")]


def _files(asked: SegmentOptions) -> Sequence[Sequence[Any]]:
    return asked.get("examples", ())
