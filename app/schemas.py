"""The JSON bodies of the service's answers."""

from __future__ import annotations

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
