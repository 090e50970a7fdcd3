"""The JSON bodies of the service's answers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Health(BaseModel):
    """Whether a probe passes, and why."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "detail": "1 of 1 workers ready"}]})

    status: Literal["ok", "unavailable"] = Field(description="`ok` with HTTP 200, `unavailable` with 503.")
    detail: str = Field(description="What the service is doing, for people.", examples=["1 of 1 workers ready"])


class Size(BaseModel):
    """A size in pixels."""

    height: int = Field(description="Rows.", examples=[448])
    width: int = Field(description="Columns.", examples=[448])


class Worker(BaseModel):
    """One worker process and its device."""

    device: str = Field(description="Torch's name of the device.", examples=["cuda:0"])
    device_name: str | None = Field(description="Its maker's name; null before it was first ready.", examples=["cpu"])
    dtype: str | None = Field(
        description="Precision of the network; null before it was first ready.", examples=["bfloat16"]
    )
    attention: str | None = Field(
        description="The kernel that computes attention, chosen at the start; null before.", examples=["blocked"]
    )
    linear: str | None = Field(
        description="The kernel that computes linear layers, chosen at the start; null before.", examples=["onednn"]
    )
    state: str = Field(
        description="starting, loading, warming, ready, restarting, stopped or failed.", examples=["ready"]
    )
    max_batch_pairs: int | None = Field(
        description="Most (image, example) pairs of one forward, found at warm-up; null before.", examples=[8]
    )


class Model(BaseModel):
    """The loaded checkpoint and where it runs."""

    checkpoint: str = Field(
        description="Where it came from: hub id, folder or file.", examples=["BAAI/seggpt-vit-large"]
    )
    revision: str | None = Field(description="Commit on the hub; null for local files.", examples=[None])
    fingerprint: str = Field(
        description="Of the weights: the same wherever they lie and in either layout, another after any training.",
        examples=["8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"],
    )
    parameters: int | None = Field(description="Numbers in the network; null until loaded.", examples=[370723203])
    picture_size: Size = Field(description="What every picture is resized to before the network.")
    canvas_size: Size = Field(description="Prompt image above input image: what the network sees.")
    patch_size: int = Field(description="Side of a patch in pixels.", examples=[16])
    workers: list[Worker] = Field(description="One per device.")


class Models(BaseModel):
    """What this service can answer with."""

    models: list[Model] = Field(description="The one loaded checkpoint; empty until it is found.")


class ProblemBody(BaseModel):
    """RFC 9457 problem details; further members belong to the type."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable URI of the kind of problem.", examples=["urn:seggpt:problem:mask-aspect"])
    title: str = Field(
        description="The kind in words, always the same.", examples=["The mask does not have its image's aspect"]
    )
    status: int = Field(description="The HTTP status again.", examples=[422])
    detail: str = Field(
        description="What was got and what is allowed.",
        examples=["prompt_mask[0]: got a mask of 640x640 pixels (width x height) for an image of 640x480"],
    )
    instance: str = Field(description="URI of this occurrence.", examples=["urn:seggpt:request:4f1c9a"])


class LabelBody(BaseModel):
    """One class."""

    index: int = Field(description="What index masks and index answers say, 1 to 255.", examples=[1])
    name: str = Field(description="What people call it.", examples=["cat"])
    colour: str = Field(description="In which masks and overlays draw it.", examples=["#ff0000"])


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths, which `pycocotools.mask.decode` reads as it is."""

    size: tuple[int, int] = Field(description="Height and width in pixels.", examples=[[480, 640]])
    counts: str = Field(description="Run lengths down the columns, in COCO's own text code.", examples=["Xm01o>1O001N"])


class Segment(BaseModel):
    """The pixels of one class, or one connected object of it."""

    index: int = Field(description="The class's index.", examples=[1])
    label: str = Field(description="The class's name.", examples=["cat"])
    instance: int | None = Field(
        description="The object's number with `instances`, from 1 on through the whole answer, as in the picture of "
        "instances; else null.",
        examples=[None],
    )
    area: int = Field(description="Pixels of the input image.", examples=[5210])
    bbox: tuple[int, int, int, int] = Field(
        description="Left, top, width and height in pixels.", examples=[[100, 40, 120, 64]]
    )
    score: float = Field(description="How sure the network is, 0 to 1: the mean over the pixels.", examples=[0.93])
    rle: Rle = Field(description="The mask, exactly.")
    polygons: list[list[list[int]]] = Field(
        description="One polygon for each connected part, the largest first: its outline, then its holes, each as "
        "x, y, x, y, ... at corners of pixels, closed from the last point to the first. Simplified by `tolerance`.",
        examples=[[[[100, 40, 220, 40, 220, 104, 100, 104], [120, 60, 120, 80, 140, 80, 140, 60]]]],
    )


class SegmentationBody(BaseModel):
    """What is where in one input image."""

    height: int = Field(description="Rows of the input image.", examples=[480])
    width: int = Field(description="Columns of the input image.", examples=[640])
    labels: list[LabelBody] = Field(description="The classes that were looked for, by rising index.")
    segments: list[Segment] = Field(
        description="By class, and with `instances` by falling area within it; empty when nothing was found."
    )
    timings_ms: dict[str, float] = Field(
        description="Milliseconds of each stage before encoding, as in Server-Timing.",
        examples=[{"decode": 3.1, "forward": 60.2}],
    )


class PromptBody(BaseModel):
    """A registered prompt. Of a damaged one only id, bytes and state are known."""

    id: str = Field(
        description="A hash of its content: 32 hexadecimal digits.", examples=["3f0c5a7e9b1d42680f2e4c6a8b0d1e3f"]
    )
    name: str | None = Field(description="What it is called; null if it has no name.", examples=["cats"])
    created_at: datetime | None = Field(
        description="When it was registered; null if damaged.", examples=["2025-06-01T12:00:00Z"]
    )
    mask_kind: Literal["binary", "index", "colour", "tuned"] | None = Field(
        description="How its masks show classes, or `tuned`; null if damaged.", examples=["binary"]
    )
    labels: list[LabelBody] = Field(description="Its classes, by rising index; empty if damaged.")
    examples: int | None = Field(description="How many it has; null if damaged.", examples=[1])
    bytes: int = Field(description="What it takes in the store.", examples=[48213])
    state: Literal["ok", "damaged"] = Field(description="Damaged ones cannot be used, only deleted.", examples=["ok"])


class PromptPage(BaseModel):
    """Some of the registered prompts."""

    prompts: list[PromptBody] = Field(description="By rising id.")
    next: str | None = Field(
        description="To be sent as `after` for the next page; null on the last.",
        examples=["3f0c5a7e9b1d42680f2e4c6a8b0d1e3f"],
    )


class PromptName(BaseModel):
    """A prompt's new name."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(
        description="1 to 100 printable characters without a slash, and no other prompt's; null takes the name away.",
        examples=["cats"],
    )
