"""What a form asks for beside its input image: examples or prompts, and how to look and to answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import File, Form, Request, UploadFile

from app.errors import ExampleCount, InvalidRequest
from app.examples import Example
from app.labels import MaskKind, parse_labels
from app.requests import Concept, EmbeddingType, Ensemble, Manner, Output
from app.tiles import parse_tile
from app.upsampling import Upsampling

REPEATED: Final = frozenset({"image", "prompt_image", "prompt_mask", "prompt"})


@dataclass(frozen=True)
class Asked:
    """Everything but the input image."""

    concepts: Sequence[Concept | str]
    embedding_type: EmbeddingType
    ensemble: Ensemble
    threshold: float | None
    tile: str | None
    upsampling: Upsampling
    output: Output | None
    label: str | None
    instances: bool
    min_area: int
    tolerance: float

    def manner(self, *, as_json: bool) -> Manner:
        """For the pipeline."""
        return Manner(
            embedding_type=self.embedding_type,
            ensemble=self.ensemble,
            threshold=self.threshold,
            tile=None if self.tile is None else parse_tile(self.tile),
            upsampling=self.upsampling,
            output=self.output,
            as_json=as_json,
            label=self.label,
            instances=self.instances,
            min_area=self.min_area,
            tolerance=self.tolerance,
        )


def files_schema(example: str) -> dict[str, Any]:
    """The schema of a repeated file field, in the older words beside the newer: Swagger's form knows arrays only so."""
    items = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
    return {"items": {**items, "examples": [example]}}


def nothing() -> list[Any]:
    """An empty list; pydantic looks at a factory's signature on every call, which for `list` itself takes 0.2 ms."""
    return []


async def asked(
    request: Request,
    prompt_image: Annotated[
        list[UploadFile],
        File(
            default_factory=nothing,
            description="Prompt images, which show the thing to mark; one or more, or `prompt` instead.",
            json_schema_extra=files_schema("examples/prompt_image.jpg"),
        ),
    ],
    prompt_mask: Annotated[
        list[UploadFile],
        File(
            default_factory=nothing,
            description="The mask of each prompt image, in the same order and of the same aspect. `mask_kind` says how "
            "it shows the thing.",
            json_schema_extra=files_schema("examples/prompt_mask.png"),
        ),
    ],
    prompt: Annotated[
        list[str],
        Form(
            default_factory=nothing,
            description="Ids or names of registered prompts, instead of examples or beside them. Each is a concept of "
            "its own in the answer.",
            examples=[[]],  # the documentation page fills these in, and most requests have none
        ),
    ],
    mask_kind: Annotated[
        MaskKind,
        Form(
            description="`binary`: all that is not black is the one thing (in soft or JPEG masks the brighter half). "
            "`index`: pixel values are the classes' indices. `colour`: pixels have the classes' colours.",
            examples=["binary"],
        ),
    ] = "binary",
    labels: Annotated[
        str | None,
        Form(
            description='JSON: the classes of index and colour masks, such as `["cat", "dog"]` (indices 1, 2) or '
            '`[{"name": "cat", "index": 7, "colour": "#ff0000"}]`; for binary masks the one thing\'s name.',
            examples=[""],
        ),
    ] = None,
    embedding_type: Annotated[
        EmbeddingType,
        Form(description="`instance` marks this one thing, `semantic` everything of its kind.", examples=["instance"]),
    ] = "instance",
    ensemble: Annotated[
        Ensemble,
        Form(
            description="How several examples are used: `feature` averages them in the network, `spatial` shows them "
            "as the tiles of one picture, which costs no more than one example.",
            examples=["feature"],
        ),
    ] = "feature",
    threshold: Annotated[
        float | None,
        Form(
            ge=0,
            le=1,
            description="A pixel belongs to its class when its soft value is above threshold * 255; unset: 0.5.",
            examples=[0.5],
        ),
    ] = None,
    output: Annotated[
        Output | None,
        Form(
            description="Which picture, for `image/png`. `mask`: 0 and 255; `soft`: the grey values, 255 is surely the "
            "thing; `index`: class indices with a palette; `colour`: the classes' colours on black; `overlay`: the "
            "input image with the thing or the classes shown. Unset: `mask` for one class, `index` for several.",
            examples=["mask"],
        ),
    ] = None,
    label: Annotated[str | None, Form(description="Show this class only, by its name.", examples=[""])] = None,
    instances: Annotated[
        bool, Form(description="Tell the connected parts of each class apart.", examples=[False])
    ] = False,
    min_area: Annotated[
        int,
        Form(ge=0, description="With `instances`: drop parts of fewer pixels of the input image.", examples=[0]),
    ] = 0,
    tolerance: Annotated[
        float,
        Form(
            ge=0,
            le=1000,
            description="How far polygons in JSON may be from the outlines, in pixels of the input image.",
            examples=[1.0],
        ),
    ] = 1.0,
    tile: Annotated[
        str | None,
        Form(
            description="Cut a large input image into overlapping tiles, each seen at the network's resolution: "
            "`auto`, or a tile's size in pixels as `WIDTHxHEIGHT`.",
            examples=[""],
        ),
    ] = None,
    upsampling: Annotated[
        Upsampling,
        Form(
            description="How the network's answer comes to the input image's size: `nearest` shows its pixels as they "
            "are, as the reference does; `bilinear` gives smooth edges.",
            examples=["nearest"],
        ),
    ] = "nearest",
) -> Asked:
    """Read the form.

    Raises:
        InvalidRequest: a field is unknown or repeated, or nothing says what to look for.
        ExampleCount: not as many masks as prompt images.
        InvalidLabels: labels that cannot be read.
    """
    form = await request.form()
    check_fields((name for name, _ in form.multi_items()), FIELDS)
    concepts: list[Concept | str] = []
    if len(prompt_image) != len(prompt_mask):
        raise ExampleCount(
            f"got {len(prompt_image)} prompt images and {len(prompt_mask)} prompt masks; each image needs its mask"
        )
    if prompt_image:
        pairs = zip(prompt_image, prompt_mask, strict=True)
        examples = [Example(await image.read(), await mask.read()) for image, mask in pairs]
        concepts.append(Concept(examples, mask_kind, parse_labels(labels, mask_kind)))
    elif labels is not None or mask_kind != "binary":
        raise InvalidRequest("got labels or mask_kind without examples; registered prompts have their own")
    concepts.extend(name for name in prompt if name)  # a form's field that was left empty means nothing
    if not concepts:
        raise ExampleCount("got no example; send prompt_image and prompt_mask, or the id or name of a prompt")
    return Asked(
        concepts,
        embedding_type,
        ensemble,
        threshold,
        tile,
        upsampling,
        output,
        label,
        instances,
        min_area,
        tolerance,
    )


FIELDS: Final = frozenset(asked.__annotations__) - {"request", "return"} | {"image"}
"""The names that forms of these routes may have."""


def check_fields(names: Iterable[str], allowed: frozenset[str]) -> None:
    """Refuse fields that mean nothing, so that a misspelt one does not go unnoticed, and repetitions.

    Raises:
        InvalidRequest: there is one.
    """
    counts = Counter(names)
    unknown = sorted(counts.keys() - allowed)
    if unknown:
        raise InvalidRequest(f"got a field {unknown[0][:80]!r}; allowed are {', '.join(sorted(allowed))}")
    repeated = sorted(name for name in counts.keys() - REPEATED if counts[name] > 1)
    if repeated:
        raise InvalidRequest(f"got {counts[repeated[0]]} fields {repeated[0]!r}; allowed is one")
